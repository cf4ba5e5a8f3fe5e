"""vLLM behind our protocol: exact log-probabilities before and after a sync, the decisions of our own controller."""

from itertools import chain

import numpy as np
import pytest
import torch

pytest.importorskip("vllm.sampling_params")

from arrol.configs.method import NeverRule, NeymanRule, QualityConfig, UniformRule
from arrol.configs.run import SamplingConfig, VllmEngineConfig
from arrol.engines.vllm.engine import VllmEngine
from arrol.engines.vllm.remote import RemoteController
from arrol.engines.vllm.sampler import push_estimator, rollout_seed
from arrol.engines.vllm.weights import MEMORY
from arrol.errors import ConfigError
from arrol.pruning.controller import PruningController
from arrol.quality.estimator import QualityEstimator
from arrol.quality.features import FeatureLayout
from arrol.types import FinishReason, GroupRequest, ProbeEvent, Prompt, RolloutId, SamplingParams

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM warns of itself
LENGTH, PROBES = 24, (6, 12)
PARAMS = SamplingParams(LENGTH, stop_token_ids=(3,))
LAYOUT = FeatureLayout(("last_hidden", "mean_hidden", "logprobs"), 32)


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(tie_word_embeddings=True, max_position_embeddings=128)


@pytest.fixture(scope="module")
def estimator():
    made = QualityEstimator(QualityConfig(), LAYOUT, PROBES, seed=0)
    torch.manual_seed(0)
    for head, calibration in zip(made._heads, made._calibrations, strict=True):
        torch.nn.init.normal_(head.second.weight)
        calibration.quality_B, calibration.is_ready = np.linspace(0.05, 0.95, 20), True
    return made


@pytest.fixture(scope="module")
def engine(model, estimator):
    made = VllmEngine(model, VllmEngineConfig(max_rows=32), SamplingConfig(), estimator=estimator)
    yield made
    made.close()


def requests_of(step=1, groups=3, size=6):
    prompts = [Prompt(str(g), tuple(range(4, 7 + g)), "", "") for g in range(groups)]
    return [GroupRequest(step, g, prompt, size, success_rate=0.2 * g) for g, prompt in enumerate(prompts)]


def tokens(groups):
    return [[completion.token_ids for completion in group] for group in groups]


def largest_gap(model, requests, groups):
    """Between vLLM's log-probabilities and Hugging Face's own."""
    gaps = [0.0]
    for request, group in zip(requests, groups, strict=True):
        for completion in group:
            prompt, written = request.prompt.token_ids, completion.token_ids
            with torch.no_grad():
                logprobs = model(torch.tensor([prompt + written])).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
            wanted = logprobs.gather(1, torch.tensor(written)[:, None])[:, 0].numpy()
            gaps.append(float(np.abs(wanted - completion.sampler_logprobs_T).max()))
    return max(gaps)


def test_logprobs_are_the_policys_before_and_after_every_weight_has_moved(engine, model):
    requests = requests_of()
    before = engine.generate(requests, PARAMS, seed=1)
    assert largest_gap(model, requests, before) < 1e-4
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    engine.sync_weights()
    after = engine.generate(requests, PARAMS, seed=1)
    assert largest_gap(model, requests, after) < 1e-4
    assert tokens(after) != tokens(before)


def test_a_seed_repeats_and_siblings_do_not_matter(engine):
    whole = engine.generate(requests_of(size=6), PARAMS, seed=2)
    again = engine.generate(requests_of(size=6), PARAMS, seed=2)
    fewer = engine.generate(requests_of(groups=1, size=2), PARAMS, seed=2)
    assert tokens(whole) == tokens(again)
    assert tokens(fewer)[0] == tokens(whole)[0][:2]
    assert tokens(engine.generate(requests_of(size=6), PARAMS, seed=3)) != tokens(whole)


def test_completions_end_by_a_stop_token_or_at_the_limit(engine):
    for completion in chain(*engine.generate(requests_of(size=16), PARAMS, seed=4)):
        ended = completion.token_ids[-1] == 3
        assert completion.finish_reason == (FinishReason.STOP if ended else FinishReason.LENGTH)
        assert ended or completion.num_tokens == LENGTH
        assert 3 not in completion.token_ids[:-1]


@pytest.mark.parametrize(
    "rule",
    [
        NeymanRule(probe_tokens=(6,), warmup_steps=0),
        NeymanRule(scope="batch", probe_tokens=(6,), warmup_steps=0),
        UniformRule(draw="bernoulli", probe_tokens=(6,), warmup_steps=0, min_survivors=0),
        NeymanRule(probe_tokens=PROBES, warmup_steps=0),
    ],
    ids=["group", "batch", "bernoulli", "two probes"],
)
def test_decisions_are_those_of_our_controller_on_the_same_scores(engine, estimator, rule):
    requests, remote = requests_of(size=8), RemoteController(rule, seed=11)
    groups = engine.generate(requests, PARAMS, seed=5, controller=remote)
    local = PruningController(rule, estimator, seed=11)
    for request in requests:
        local.open(request.step, request.group, request.size, request.success_rate)
    stopped = set()
    for probe, length in enumerate(rule.probe_tokens):
        early = [i for i, c in addressed(groups) if c.num_tokens <= length and length not in c.features_at]
        stopped |= set(local.finished([i for i in early if i not in stopped]))
        events = [ProbeEvent(i, probe, c.features_at[length]) for i, c in addressed(groups) if length in c.features_at]
        stopped |= set(local.probed(events))
    assert stopped
    assert stopped == {i for i, c in addressed(groups) if c.finish_reason is FinishReason.PRUNED}
    for request in requests:
        ours, theirs = local.decisions(1, request.group), remote.decisions(1, request.group)
        assert [(d.rollout_id, d.keep, d.reason, d.probe) for d in ours] == [
            (d.rollout_id, d.keep, d.reason, d.probe) for d in theirs
        ]
        np.testing.assert_allclose([d.survival for d in theirs], [d.survival for d in ours], rtol=1e-6)
        np.testing.assert_allclose([d.score for d in theirs], [d.score for d in ours], rtol=1e-5, atol=1e-5)


def addressed(groups):
    return [(RolloutId(1, g, i), c) for g, group in enumerate(groups) for i, c in enumerate(group)]


def test_the_stopped_keep_the_tokens_up_to_the_probe_and_the_others_all_of_theirs(engine):
    rule = NeymanRule(probe_tokens=(6,), warmup_steps=0)
    free = engine.generate(requests_of(size=8), PARAMS, seed=6)
    pruned = engine.generate(requests_of(size=8), PARAMS, seed=6, controller=RemoteController(rule, seed=0))
    reasons = set()
    for whole, part in zip(chain(*free), chain(*pruned), strict=True):
        reasons.add(part.finish_reason)
        kept = part.finish_reason is not FinishReason.PRUNED
        assert part.token_ids == (whole.token_ids if kept else whole.token_ids[: part.num_tokens])
        assert kept or part.num_tokens >= 6
    assert FinishReason.PRUNED in reasons


def test_warmup_and_observation_stop_no_rollout_and_show_features(engine):
    for rule in (NeymanRule(probe_tokens=(6,), warmup_steps=1), NeverRule(probe_tokens=(6,), observe=True)):
        controller = RemoteController(rule, seed=0)
        groups = engine.generate(requests_of(), PARAMS, seed=7, controller=controller)
        written = list(chain(*groups))
        assert all(c.finish_reason is not FinishReason.PRUNED for c in written)
        assert [6 in c.features_at for c in written] == [c.num_tokens > 6 for c in written]
        assert all(c.features_at[6].shape == (LAYOUT.num_features,) for c in written if c.num_tokens > 6)
        assert sum(len(controller.decisions(1, g)) for g in range(3)) == sum(c.num_tokens > 6 for c in written)


def features_of(model, prompt, completion, length):
    """What the head reads after ``length`` completion tokens, from Hugging Face."""
    ids = torch.tensor([prompt.token_ids + completion.token_ids[:length]])
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state[0, len(prompt.token_ids) :].numpy()
    logprobs = completion.sampler_logprobs_T[:length]
    statistics = np.array([[logprobs.sum(), logprobs.min(), logprobs.mean()]])
    return LAYOUT.assemble(hidden[-1:], hidden.mean(axis=0, keepdims=True), statistics)


@pytest.mark.parametrize("rule", [None, NeymanRule(probe_tokens=(6,), warmup_steps=0)], ids=["alone", "while pruning"])
def test_every_completion_can_be_scored_at_its_end(engine, model, estimator, rule):
    requests, controller = requests_of(size=8), rule and RemoteController(rule, seed=0)
    groups = engine.generate(requests, PARAMS, seed=8, controller=controller, score_ends=True)
    seen = set()
    for request, group in zip(requests, groups, strict=True):
        for completion in group:
            fed = completion.num_tokens - 1
            if completion.finish_reason is FinishReason.PRUNED or fed == 0:
                assert np.isnan(completion.end_score)
                continue
            probe = 0 if fed == PROBES[0] else 1
            wanted = estimator.scores(features_of(model, request.prompt, completion, fed), probe)[0]
            assert completion.end_score == pytest.approx(wanted, abs=1e-3)
            seen.add(completion.finish_reason)
    assert FinishReason.LENGTH in seen
    assert all(np.isnan(c.end_score) for c in chain(*engine.generate(requests, PARAMS, seed=8)))


def test_a_probe_the_head_was_not_trained_at_is_refused_by_name(engine):
    rule = UniformRule(probe_tokens=(7,), warmup_steps=0)
    with pytest.raises(ConfigError, match=r"arrol_probe_tokens = \[7\].*trained at \[6, 12\]"):
        engine.generate(requests_of(), PARAMS, seed=0, controller=RemoteController(rule, seed=0))
    assert len(engine.generate(requests_of(), PARAMS, seed=0)) == 3


def test_the_head_of_another_model_is_refused(engine):
    other = QualityEstimator(QualityConfig(), FeatureLayout(("last_hidden",), 16), PROBES, seed=0)
    with pytest.raises(ConfigError, match=r"estimator.hidden_size = 16: the model's is 32; load"):
        push_estimator(engine._llm, other.snapshot())


def test_nothing_is_left_behind_when_vllm_does_not_start(model, monkeypatch):
    def fails(*arguments):
        raise RuntimeError("no memory")

    before = set(MEMORY.glob("arrol-policy-*"))
    monkeypatch.setattr("arrol.engines.vllm.engine._start", fails)
    with pytest.raises(RuntimeError, match="no memory"):
        VllmEngine(model, VllmEngineConfig(), SamplingConfig())
    assert set(MEMORY.glob("arrol-policy-*")) == before


def test_what_vllm_refuses_is_one_line(model):
    with pytest.raises(ConfigError, match=r"engine: vLLM refuses it \(.*nonsense.*\); change the field") as caught:
        VllmEngine(model, VllmEngineConfig(quantization="nonsense", dtype="bfloat16"), SamplingConfig())
    assert "\n" not in str(caught.value)


def test_sleep_is_refused_where_there_is_none(model):
    with pytest.raises(ConfigError, match=r"engine.sleep_level = 1"):
        VllmEngine(model, VllmEngineConfig(sleep_level=1), SamplingConfig())


def test_seeds_of_rollouts_are_distinct_and_fit_vllm():
    seeds = {
        rollout_seed(s, RolloutId(t, g, i)) for s in range(4) for t in range(4) for g in range(4) for i in range(4)
    }
    assert len(seeds) == 256
    assert max(seeds) < 2**63
