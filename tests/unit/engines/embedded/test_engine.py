"""The engine writes what transformers writes for one prompt, with any rows beside it."""

import numpy as np
import pytest
import torch

from arrol.configs.run import EngineConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.errors import ModelError
from arrol.quality.features import FeatureLayout
from arrol.types import FinishReason, RolloutId, SamplingParams
from doubles import PROMPTS, Spy, assert_logprobs_are_the_models, forward, requests_for, tokens_of

LAYOUT = FeatureLayout(("last_hidden", "mean_hidden", "logprobs"), 32)


def engine_of(model, **settings):
    return EmbeddedEngine(model, EngineConfig(**settings), LAYOUT)


def test_greedy_tokens_of_mixed_prompts_equal_generate_one_by_one(any_model):
    groups = engine_of(any_model).generate(requests_for(PROMPTS, 2), SamplingParams(20, temperature=0), seed=0)
    for prompt, group in zip(PROMPTS, groups, strict=True):
        ids = torch.tensor([prompt])
        expected = any_model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=0
        )[0, len(prompt) :].tolist()
        assert [list(completion.token_ids) for completion in group] == [expected, expected]


def test_logprobs_equal_a_forward_pass(any_model):
    groups = engine_of(any_model).generate(requests_for(PROMPTS, 3), SamplingParams(25), seed=1)
    assert_logprobs_are_the_models(any_model, PROMPTS, groups)
    assert len({completion.token_ids for group in groups for completion in group}) == 12, "streams differ"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_float32_weights_under_autocast_are_sampled_as_the_model_scores_them(make_model, attention):
    """As a trainer with ``bf16=True`` has them: accelerate patches autocast into ``forward``."""
    model = make_model("llama", attn_implementation=attention)
    exact = model.forward

    def patched(*arguments, **named):
        with torch.autocast("cpu", torch.bfloat16):
            output = exact(*arguments, **named)
        output.logits = output.logits.float()
        return output

    model.forward = patched
    with torch.autocast("cpu", torch.bfloat16):
        engine = engine_of(model)
        groups = engine.generate(requests_for(PROMPTS, 3), SamplingParams(25), seed=1)
        again = engine.generate(requests_for(PROMPTS, 3), SamplingParams(25), seed=1)
    assert engine._cache._empty.dtype == torch.bfloat16
    assert tokens_of(groups) == tokens_of(again)
    assert_logprobs_are_the_models(model, PROMPTS, groups, tolerance=0.1)
    model.forward = exact
    expected = [forward(model, p, c.token_ids)[0] for p, group in zip(PROMPTS, groups, strict=True) for c in group]
    found = [completion.sampler_logprobs_T for group in groups for completion in group]
    assert np.abs(np.concatenate(found) - np.concatenate(expected)).max() > 1e-3, "it was bfloat16"


def test_features_equal_a_forward_pass(any_model):
    spy = Spy((4, 9))
    groups = engine_of(any_model).generate(requests_for(PROMPTS, 3), SamplingParams(12), seed=2, controller=spy)
    assert len(spy.events) == 24
    for event in spy.events:
        number, length = event.rollout_id.group, spy.probe_tokens[event.probe]
        completion = groups[number][event.rollout_id.index]
        logprobs, hidden = forward(any_model, PROMPTS[number], completion.token_ids)
        seen = logprobs[:length]
        expected = np.concatenate([hidden[length - 1], hidden[:length].mean(0), [seen.sum(), seen.min(), seen.mean()]])
        np.testing.assert_allclose(event.features_F, expected, atol=1e-4)
        np.testing.assert_array_equal(completion.features_at[length], event.features_F)
        assert event.confidence == pytest.approx(seen.mean(), abs=1e-5)


def test_eager_attention_is_the_same(make_model):
    plain, eager = make_model(), make_model(attn_implementation="eager")
    assert eager.config._attn_implementation == "eager"
    groups = [engine_of(m).generate(requests_for(PROMPTS, 3), SamplingParams(16), seed=1) for m in (plain, eager)]
    assert tokens_of(groups[0]) == tokens_of(groups[1])
    assert_logprobs_are_the_models(eager, PROMPTS, groups[1])


def test_a_controller_that_stops_no_rollout_changes_no_token(make_model):
    engine, params = engine_of(make_model()), SamplingParams(30, stop_token_ids=(4, 7))
    plain = engine.generate(requests_for(PROMPTS, 4), params, seed=3)
    watched = engine.generate(requests_for(PROMPTS, 4), params, seed=3, controller=Spy((5, 11)))
    assert tokens_of(plain) == tokens_of(watched)
    for a, b in zip(plain, watched, strict=True):
        assert all((x.sampler_logprobs_T == y.sampler_logprobs_T).all() for x, y in zip(a, b, strict=True))


def test_stopped_siblings_change_no_survivor(make_model):
    """512 rollouts, half stopped at token 6. Measured: no survivor differs on a CPU; the bound allows 1 in 200."""
    engine, params = engine_of(make_model()), SamplingParams(32, stop_token_ids=(4,))
    prompts = [tuple(3 + (g * 7 + i) % 20 for i in range(1 + g % 9)) for g in range(32)]
    plain = engine.generate(requests_for(prompts, 16), params, seed=5)
    chosen = np.random.default_rng(0).random((32, 16)) < 0.5
    stops = [RolloutId(1, int(g), int(i)) for g, i in np.argwhere(chosen)]
    pruned = engine.generate(requests_for(prompts, 16), params, seed=5, controller=Spy((6,), stops))
    num_stopped = changed = survivors = 0
    for g in range(32):
        for i in range(16):
            before, after = plain[g][i], pruned[g][i]
            if after.finish_reason is FinishReason.PRUNED:
                num_stopped += 1
                assert chosen[g, i]
                assert after.token_ids == before.token_ids[:6]
            else:
                survivors += 1
                changed += after.token_ids != before.token_ids
                assert after.finish_reason is before.finish_reason or after.token_ids != before.token_ids
    assert num_stopped > 100
    assert survivors > 200
    assert changed <= survivors // 200, f"{changed} of {survivors} survivors changed"


@pytest.mark.parametrize("settings", [{"max_rows": 5}, {"max_rows": 1}, {"prefill_tokens": 4}, {"prefill_tokens": 13}])
def test_refill_and_small_prefills_write_the_same(make_model, settings):
    model, params = make_model(), SamplingParams(18, stop_token_ids=(4, 9))
    whole = engine_of(model).generate(requests_for(PROMPTS, 4), params, seed=7)
    parts = engine_of(model, **settings).generate(requests_for(PROMPTS, 4), params, seed=7)
    assert tokens_of(whole) == tokens_of(parts)
    assert len({len(c.token_ids) for group in whole for c in group}) > 2, "rows must end at different times"


def test_refilled_rows_are_probed_like_the_first(make_model):
    seen = {}
    for rows in (16, 3):
        spy = Spy((3, 8))
        engine_of(make_model(), max_rows=rows).generate(
            requests_for(PROMPTS, 4), SamplingParams(10, stop_token_ids=(4,)), seed=7, controller=spy
        )
        seen[rows] = {(e.rollout_id, e.probe): e.features_F for e in spy.events}
    assert seen[16].keys() == seen[3].keys()
    for key, features in seen[16].items():
        np.testing.assert_allclose(features, seen[3][key], atol=1e-4)


def test_stop_tokens_end_a_completion_and_belong_to_it(make_model):
    params = SamplingParams(40, stop_token_ids=(4, 7))
    groups = engine_of(make_model()).generate(requests_for(PROMPTS, 8), params, seed=0)
    free = engine_of(make_model()).generate(requests_for(PROMPTS, 8), SamplingParams(40), seed=0)
    reasons = {completion.finish_reason for group in groups for completion in group}
    assert reasons == {FinishReason.STOP, FinishReason.LENGTH} or reasons == {FinishReason.STOP}
    for group, unstopped in zip(groups, free, strict=True):
        for completion, other in zip(group, unstopped, strict=True):
            ends = [place for place, token in enumerate(other.token_ids) if token in (4, 7)]
            length = ends[0] + 1 if ends else 40
            assert completion.token_ids == other.token_ids[:length]
            assert completion.finish_reason is (FinishReason.STOP if ends else FinishReason.LENGTH)
            assert len(completion.sampler_logprobs_T) == length


def test_a_limit_of_one_token(make_model):
    groups = engine_of(make_model()).generate(requests_for(PROMPTS, 3), SamplingParams(1), seed=0, controller=Spy((1,)))
    assert all(c.num_tokens == 1 and c.finish_reason is FinishReason.LENGTH for g in groups for c in g)
    assert all(not completion.features_at for group in groups for completion in group)


def test_a_rollout_that_ends_at_the_probe_is_never_shown(make_model):
    params = SamplingParams(30, stop_token_ids=(4, 7))
    ends = [
        (RolloutId(1, g, i), completion.num_tokens)
        for g, group in enumerate(engine_of(make_model()).generate(requests_for(PROMPTS, 8), params, seed=0))
        for i, completion in enumerate(group)
    ]
    length = sorted(tokens for _, tokens in ends)[10]
    spy = Spy((length,))
    engine_of(make_model()).generate(requests_for(PROMPTS, 8), params, seed=0, controller=spy)
    shown = {event.rollout_id for event in spy.events}
    assert shown == {rollout_id for rollout_id, tokens in ends if tokens > length}
    assert any(tokens == length for _, tokens in ends)
    assert sorted(spy.ended) == sorted(rollout_id for rollout_id, _ in ends)


def test_stops_at_a_second_probe_and_between_probes(make_model):
    at_second, between = RolloutId(1, 2, 1), RolloutId(1, 0, 3)
    spy = Spy((3, 8), [at_second], at_probe=1, late={between: 5})
    groups = engine_of(make_model()).generate(requests_for(PROMPTS, 4), SamplingParams(12), seed=0, controller=spy)
    assert groups[2][1].finish_reason is FinishReason.PRUNED
    assert groups[2][1].num_tokens == 8
    assert set(groups[2][1].features_at) == {3, 8}
    assert groups[0][3].finish_reason is FinishReason.PRUNED
    assert groups[0][3].num_tokens == 6, "the fifth decode step has written the sixth token"
    assert {(e.rollout_id, e.probe) for e in spy.events if e.rollout_id == between} == {(between, 0)}
    assert sum(c.finish_reason is FinishReason.LENGTH for g in groups for c in g) == 14
    assert spy.opened == [(1, g, 4) for g in range(4)]


def test_the_clock_a_controller_sees_only_grows(make_model):
    engine, spy = engine_of(make_model()), Spy((2,))
    for step in (1, 2):
        engine.generate(requests_for(PROMPTS, 1, step), SamplingParams(5), seed=0, controller=spy)
    assert spy.ticks == sorted(set(spy.ticks))


def test_logits_that_are_not_finite_end_a_rollout_as_an_error_and_poison_no_other(make_model):
    model = make_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[23] = float("nan")
    engine, params = engine_of(model, max_rows=3), SamplingParams(12)
    poisoned = [(3,), (5, 23, 6), (9, 8, 7)]
    groups = engine.generate(requests_for(poisoned, 3), params, seed=0)
    assert {c.finish_reason for c in groups[1]} == {FinishReason.ERROR}
    for number in (0, 2):
        alone = engine_of(model).generate(requests_for(poisoned, 3), params, seed=0)[number]
        assert [c.token_ids for c in groups[number]] == [c.token_ids for c in alone]
        clean = [c for c in groups[number] if 23 not in c.token_ids]
        assert clean
        assert all(c.finish_reason is FinishReason.LENGTH for c in clean)
    engine.generate(requests_for([(23,) * 8], 3), params, seed=0)
    mixed = [(5,), (9, 8, 7, 6, 5, 4, 3)]  # the short rows have masked columns in which the failed ones wrote
    later = engine.generate(requests_for(mixed, 2), params, seed=1)
    fresh = engine_of(model).generate(requests_for(mixed, 2), params, seed=1)
    assert any(c.finish_reason is FinishReason.LENGTH for c in fresh[0])
    assert tokens_of(later) == tokens_of(fresh)
    for one, other in zip(later, fresh, strict=True):
        assert [c.finish_reason for c in one] == [c.finish_reason for c in other]


def test_bfloat16_keeps_a_copy_that_follows_the_learner(make_model):
    model = make_model(rope_theta=10_000.0)
    engine, params = engine_of(model, dtype="bfloat16"), SamplingParams(8, temperature=0)
    before = engine.generate(requests_for(PROMPTS, 2), params, seed=0)
    assert engine._model is not model
    assert engine._model.dtype == torch.bfloat16
    assert model.dtype == torch.float32
    frequencies = [buffer.dtype for name, buffer in engine._model.named_buffers() if "inv_freq" in name]
    assert set(frequencies) == {torch.float32}, "rounded frequencies turn distant positions"
    other = make_model(seed=9)
    model.load_state_dict(other.state_dict())
    assert tokens_of(engine.generate(requests_for(PROMPTS, 2), params, seed=0)) == tokens_of(before)
    engine.sync_weights()
    after = engine.generate(requests_for(PROMPTS, 2), params, seed=0)
    assert tokens_of(after) != tokens_of(before)
    assert_logprobs_are_the_models(other, PROMPTS, after, tolerance=0.25)
    assert model.dtype == torch.float32


def test_bfloat16_positions_stay_exact_far_out(make_model):
    model = make_model()
    prompt = tuple(3 + i * i % 20 for i in range(300))
    groups = engine_of(model, dtype="bfloat16").generate(requests_for([prompt], 8), SamplingParams(20), seed=0)
    gaps = [abs(c.sampler_logprobs_T - forward(model, prompt, c.token_ids)[0]).mean() for c in groups[0]]
    assert np.mean(gaps) < 0.05


def test_two_engines_do_not_disturb_each_other(make_model):
    models = [make_model("qwen3"), make_model("llama", seed=4)]
    params = SamplingParams(15)
    alone = [tokens_of(engine_of(m).generate(requests_for(PROMPTS, 3), params, seed=2)) for m in models]
    first, second = (engine_of(m, max_rows=4) for m in models)
    together = []
    for engine in (first, second, first, second):
        together.append(tokens_of(engine.generate(requests_for(PROMPTS, 3), params, seed=2)))
    assert together == alone + alone
    assert alone[0] != alone[1]


def test_the_model_is_left_as_it_was_found(make_model):
    model = make_model().train()
    state = torch.get_rng_state()
    engine_of(model).generate(requests_for(PROMPTS, 2), SamplingParams(4), seed=0)
    engine_of(model, dtype="bfloat16")
    assert model.training
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_never_reaches_a_completion(make_model):
    model = make_model(attention_dropout=0.9)
    calm = tokens_of(engine_of(model).generate(requests_for(PROMPTS, 2), SamplingParams(10), seed=0))
    model.train()
    assert tokens_of(engine_of(model).generate(requests_for(PROMPTS, 2), SamplingParams(10), seed=0)) == calm


def test_probes_need_a_layout(make_model):
    engine = EmbeddedEngine(make_model(), EngineConfig())
    with pytest.raises(ModelError, match=r"engine\.layout"):
        engine.generate(requests_for(PROMPTS, 2), SamplingParams(4), seed=0, controller=Spy((2,)))
    assert engine.generate(requests_for(PROMPTS, 1), SamplingParams(4), seed=0, controller=Spy(()))


def test_nothing_to_do(make_model):
    assert engine_of(make_model()).generate([], SamplingParams(4), seed=0) == []
