"""A caller that asks for more while ``vllm.LLM`` generates: the same tokens, each wave by its own rule, no draining."""

from dataclasses import replace

import pytest

from arrol.configs.method import NeymanRule
from arrol.engines.vllm.remote import RemoteController
from arrol.engines.vllm.sampler import LlmSampler
from arrol.types import FinishReason, GroupRequest, Prompt, Reason, SamplingParams
from vllm_host import ARROL, engine, is_second_runner, leftovers, scheduler_of, snapshot_of

pytestmark = pytest.mark.skipif(is_second_runner(), reason="an interpreted step takes long; nothing here depends on it")
PROBE, PARAMS = 7, SamplingParams(24, stop_token_ids=(40, 41, 42))
PROMPTS = [tuple(range(50, 55)), tuple(range(60, 100))]


@pytest.fixture(scope="module")
def llm(model):
    with engine(model, **{**ARROL, "max_num_seqs": 8}) as llm:
        llm.collective_rpc("arrol_set_estimator", args=(snapshot_of(PROBE).to_bytes(),))
        yield llm


def request(group, size, first=0, *, step=1, prune=True):
    prompt = Prompt(str(group), PROMPTS[group], "", "")
    return GroupRequest(step, group, prompt, size, first=first, prune=prune)


def tokens(groups):
    return [[completion.token_ids for completion in group] for group in groups]


class Caller:
    """Answers from a list; remembers how many requests still ran whenever it was called."""

    def __init__(self, llm, *answers):
        self.scheduler, self.answers, self.running = scheduler_of(llm), list(answers), []

    def __call__(self, news):
        self.running.append(len(self.scheduler.requests))
        return self.answers.pop(0) if self.answers else []


def test_an_explored_wave_is_pruned_and_a_rescue_is_not(llm):
    sampler = LlmSampler(llm)
    plain = sampler.generate([request(0, 14), request(1, 4)], PARAMS, seed=1)
    for scope in ("group", "batch"):
        rule = NeymanRule(probe_tokens=(PROBE,), warmup_steps=0, min_survivors=1, scope=scope)
        controller = RemoteController(rule, seed=0)
        rescue = [request(0, 4, 6, prune=False), request(1, 4)]
        more = Caller(llm, rescue, [request(0, 4, 10)])
        groups = sampler.generate([request(0, 6)], PARAMS, seed=1, controller=controller, more=more)
        whole = [plain[0][:6], plain[0][6:10], plain[1], plain[0][10:]]
        for group, expected, spared in zip(groups, whole, (False, True, False, False), strict=True):
            stopped = [c.finish_reason is FinishReason.PRUNED for c in group]
            assert any(stopped) != spared
            for mine, theirs in zip(group, expected, strict=True):
                pruned = mine.finish_reason is FinishReason.PRUNED
                assert mine.token_ids == (theirs.token_ids[: mine.num_tokens] if pruned else theirs.token_ids)
                assert pruned or mine.num_tokens <= PROBE or PROBE in mine.features_at
        decisions = {d.rollout_id.index: d for d in controller.decisions(1, 0)}
        rescued = [decisions[i] for i in range(6, 10) if i in decisions]
        assert rescued
        assert {(d.reason, d.survival) for d in rescued} == {(Reason.RESCUE, 1.0)}
        assert all(decisions[i].reason is not Reason.RESCUE for i in (*range(6), *range(10, 14)) if i in decisions)
        for index, completion in enumerate(c for g in (groups[0], groups[1], groups[3]) for c in g):
            assert (completion.finish_reason is FinishReason.PRUNED) == (
                index in decisions and not decisions[index].keep
            )
        assert max(more.running[:2]) > 0, "others still ran when it was asked"
        assert set(leftovers(scheduler_of(llm)).values()) == {0}


def test_tokens_do_not_depend_on_when_a_rollout_was_asked_for(llm):
    sampler = LlmSampler(llm)
    plain = sampler.generate([request(0, 5), request(1, 3)], PARAMS, seed=2)
    parts = sampler.generate([request(0, 2)], PARAMS, seed=2, more=Caller(llm, [request(1, 3)], [request(0, 3, 2)]))
    assert tokens(parts) == tokens([plain[0][:2], plain[1], plain[0][2:]])


def test_an_error_of_the_caller_leaves_an_engine_that_goes_on(llm):
    def fails(news):
        raise RuntimeError("mine")

    sampler = LlmSampler(llm)
    plain = sampler.generate([request(0, 6)], PARAMS, seed=3)
    with pytest.raises(RuntimeError, match="mine"):
        sampler.generate([replace(request(1, 6), step=2)], PARAMS, seed=3, more=fails)
    assert tokens(sampler.generate([request(0, 6)], PARAMS, seed=3)) == tokens(plain)
    assert set(leftovers(scheduler_of(llm)).values()) == {0}
