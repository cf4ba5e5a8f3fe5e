"""The golden checks of the embedded engine on CUDA. Tolerances: 1e-3 in float32 (other kernels, TF32 off), 0.3 in
bfloat16.
"""

import numpy as np
import pytest
import torch

from arrol.configs.run import EngineConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.quality.features import FeatureLayout
from arrol.types import FinishReason, RolloutId, SamplingParams
from doubles import PROMPTS, Spy, assert_logprobs_are_the_models, forward, requests_for, tokens_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

LAYOUT = FeatureLayout(("last_hidden", "mean_hidden", "logprobs"), 32)


def engine_of(model, **settings):
    return EmbeddedEngine(model, EngineConfig(**settings), LAYOUT)


def test_greedy_tokens_of_mixed_prompts_equal_generate_one_by_one(any_model):
    model = any_model.to("cuda")
    groups = engine_of(model).generate(requests_for(PROMPTS, 2), SamplingParams(20, temperature=0), seed=0)
    for prompt, group in zip(PROMPTS, groups, strict=True):
        ids = torch.tensor([prompt], device="cuda")
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=0
        )[0, len(prompt) :].tolist()
        assert [list(completion.token_ids) for completion in group] == [expected, expected]


def test_logprobs_and_features_equal_a_forward_pass(any_model):
    model, spy = any_model.to("cuda"), Spy((4, 9))
    groups = engine_of(model).generate(requests_for(PROMPTS, 3), SamplingParams(25), seed=1, controller=spy)
    assert_logprobs_are_the_models(model, PROMPTS, groups, tolerance=1e-3)
    assert len(spy.events) == 24
    for event in spy.events:
        number, length = event.rollout_id.group, spy.probe_tokens[event.probe]
        logprobs, hidden = forward(model, PROMPTS[number], groups[number][event.rollout_id.index].token_ids)
        seen = logprobs[:length]
        expected = np.concatenate([hidden[length - 1], hidden[:length].mean(0), [seen.sum(), seen.min(), seen.mean()]])
        np.testing.assert_allclose(event.features_F, expected, atol=1e-3)


def test_tokens_equal_the_cpus(make_model):
    params = SamplingParams(20, stop_token_ids=(4,))
    expected = tokens_of(engine_of(make_model()).generate(requests_for(PROMPTS, 16), params, seed=3))
    got = tokens_of(engine_of(make_model().to("cuda")).generate(requests_for(PROMPTS, 16), params, seed=3))
    same = sum(a == b for one, two in zip(expected, got, strict=True) for a, b in zip(one, two, strict=True))
    assert same >= 62, f"{same} of 64 rollouts equal"


def test_stopped_siblings_change_almost_no_survivor(make_model):
    engine, params = engine_of(make_model().to("cuda")), SamplingParams(32)
    prompts = [tuple(3 + (g * 7 + i) % 20 for i in range(1 + g % 9)) for g in range(32)]
    plain = engine.generate(requests_for(prompts, 16), params, seed=5)
    stops = [RolloutId(1, g, i) for g in range(32) for i in range(0, 16, 2)]
    pruned = engine.generate(requests_for(prompts, 16), params, seed=5, controller=Spy((6,), stops))
    pairs = [(plain[g][i], pruned[g][i]) for g in range(32) for i in range(16)]
    survivors = [(a, b) for a, b in pairs if b.finish_reason is not FinishReason.PRUNED]
    assert len(survivors) == 256
    changed = sum(a.token_ids != b.token_ids for a, b in survivors)
    assert changed <= 5, f"{changed} of 256 survivors changed"


def test_bfloat16_runs_and_follows_the_learner(make_model):
    model = make_model().to("cuda")
    engine, params = engine_of(model, dtype="bfloat16", max_rows=5), SamplingParams(12)
    before = engine.generate(requests_for(PROMPTS, 4), params, seed=0)
    assert_logprobs_are_the_models(model, PROMPTS, before, tolerance=0.3)
    other = make_model(seed=9).to("cuda")
    model.load_state_dict(other.state_dict())
    engine.sync_weights()
    after = engine.generate(requests_for(PROMPTS, 4), params, seed=0)
    assert tokens_of(after) != tokens_of(before)
    assert_logprobs_are_the_models(other, PROMPTS, after, tolerance=0.3)
