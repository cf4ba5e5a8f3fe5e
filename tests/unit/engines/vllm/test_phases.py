"""Two calls over a made-up engine: the same tokens as one call, the controller's decisions, exact lengths."""

import types
from dataclasses import replace

import numpy as np
import pytest

from arrol.configs.method import QualityConfig, UniformRule
from arrol.engines.vllm.phases import TwoPhaseSampler
from arrol.errors import ConfigError
from arrol.pruning.controller import PruningController
from arrol.quality.estimator import QualityEstimator
from arrol.quality.features import FeatureLayout
from arrol.types import FinishReason, GroupRequest, Prompt, Reason, RolloutId, SamplingParams

LAYOUT = FeatureLayout(("logprobs",), 0)
END = 9


class FakeLlm:
    """Counts upwards from the prompt's last token; the prompt's first token says at which length it ends."""

    def __init__(self):
        self.calls = []

    @staticmethod
    def settings(fields):
        return fields

    def generate(self, prompts, settings, *, use_tqdm):
        self.calls.append(
            [(len(p["prompt_token_ids"]), s["max_tokens"]) for p, s in zip(prompts, settings, strict=True)]
        )
        return [self._answer(p["prompt_token_ids"], s) for p, s in zip(prompts, settings, strict=True)]

    def _answer(self, ids, fields):
        length = ids[0] - (len(ids) - 2)
        tokens = [100 + len(ids) + i for i in range(min(length, fields["max_tokens"]))]
        ended = length <= fields["max_tokens"]
        if ended:
            tokens[-1] = END
        logprobs = [{token: types.SimpleNamespace(logprob=-0.01 * token)} for token in tokens]
        output = types.SimpleNamespace(
            token_ids=tokens, logprobs=logprobs, finish_reason="stop" if ended else "length", stop_reason=None
        )
        return types.SimpleNamespace(outputs=[output])


def requests_of(*lengths, size=4):
    return [GroupRequest(2, g, Prompt(str(g), (length, 5), "", ""), size) for g, length in enumerate(lengths)]


def controller_of(**changes):
    rule = UniformRule(probe_tokens=(4,), warmup_steps=0, min_survivors=1, **changes)
    return PruningController(
        rule, QualityEstimator(QualityConfig(features=("logprobs",)), LAYOUT, (4,), seed=0), seed=0
    )


PARAMS = SamplingParams(10, stop_token_ids=(END,))


def test_half_of_a_group_is_stopped_with_exactly_the_probed_tokens():
    llm = FakeLlm()
    groups = TwoPhaseSampler(llm, LAYOUT).generate(requests_of(8, 50), PARAMS, seed=0, controller=controller_of())
    for group, (length, reason) in zip(groups, [(8, FinishReason.STOP), (10, FinishReason.LENGTH)], strict=True):
        assert sorted(c.num_tokens for c in group) == [4, 4, length, length]
        assert sorted(c.finish_reason for c in group) == sorted([FinishReason.PRUNED] * 2 + [reason] * 2)
    assert llm.calls == [[(2, 4)] * 8, [(6, 6)] * 4]


def test_the_pieces_of_a_survivor_make_one_completion():
    (group,) = TwoPhaseSampler(FakeLlm(), LAYOUT).generate(requests_of(8), PARAMS, seed=0, controller=controller_of())
    for completion in group:
        if completion.finish_reason is FinishReason.STOP:
            assert completion.token_ids == (102, 103, 104, 105, 106, 107, 108, END)
            np.testing.assert_allclose(
                completion.sampler_logprobs_T, [-0.01 * t for t in completion.token_ids], rtol=1e-6
            )
        first = completion.sampler_logprobs_T[:4]
        np.testing.assert_allclose(completion.features_at[4], [first.sum(), first.min(), first.mean()], rtol=1e-6)


def test_a_rollout_that_ends_before_the_probe_is_no_candidate():
    controller, llm = controller_of(), FakeLlm()
    groups = TwoPhaseSampler(llm, LAYOUT).generate(requests_of(3, 4), PARAMS, seed=0, controller=controller)
    assert all(c.finish_reason is FinishReason.STOP and not c.features_at for group in groups for c in group)
    assert controller.decisions(2, 0) == controller.decisions(2, 1) == []
    assert len(llm.calls) == 1


def test_without_a_controller_it_is_one_call():
    llm = FakeLlm()
    TwoPhaseSampler(llm, LAYOUT).generate(requests_of(50), PARAMS, seed=0)
    assert llm.calls == [[(2, 10)] * 4]


def test_hidden_states_are_refused():
    with pytest.raises(ConfigError, match=r"quality\.features = \['last_hidden'\]"):
        TwoPhaseSampler(FakeLlm(), FeatureLayout(("last_hidden",), 8))


def test_a_rollout_stopped_by_the_end_of_a_sibling_is_pruned():
    class Late:
        probe_tokens = (4,)

        def open(self, *group, prune):
            pass

        def finished(self, rollout_ids):
            return [RolloutId(2, 1, 3)] if rollout_ids else []

        def probed(self, events):
            return []

    groups = TwoPhaseSampler(FakeLlm(), LAYOUT).generate(requests_of(3, 50), PARAMS, seed=0, controller=Late())
    reasons = [[completion.finish_reason for completion in group] for group in groups]
    assert reasons == [[FinishReason.STOP] * 4, [FinishReason.LENGTH] * 3 + [FinishReason.PRUNED]]


def test_requests_that_more_adds_are_a_round_of_their_own():
    llm, controller, told = FakeLlm(), controller_of(), []
    (request,) = requests_of(8)

    def more(news):
        told.append([(rollout_id.index, completion.finish_reason.survived) for rollout_id, completion in news])
        return [replace(request, first=4, prune=False)] if len(told) == 1 else []

    explored, rescued = TwoPhaseSampler(llm, LAYOUT).generate(
        [request], PARAMS, seed=0, controller=controller, more=more
    )
    assert [c.finish_reason for c in explored].count(FinishReason.PRUNED) == 2
    assert [c.num_tokens for c in rescued] == [8] * 4
    assert [len(call) for call in llm.calls] == [4, 2, 4, 4]
    assert [len(news) for news in told] == [4, 4]
    assert [d.reason for d in controller.decisions(2, 0)] == [Reason.DRAW] * 4 + [Reason.RESCUE] * 4
    controller.open(3, 0, 1)
    with pytest.raises(KeyError):
        controller.decisions(2, 0)


def test_tokens_of_a_rollout_do_not_depend_on_its_round():
    request = requests_of(50, size=4)[0]
    plain = TwoPhaseSampler(FakeLlm(), LAYOUT).generate([request], PARAMS, seed=3)
    waves = [replace(request, size=2, first=2)]
    parts = TwoPhaseSampler(FakeLlm(), LAYOUT).generate(
        [replace(request, size=2)], PARAMS, seed=3, more=lambda news: [waves.pop()] if waves else []
    )
    assert [c.token_ids for group in parts for c in group] == [c.token_ids for c in plain[0]]
