"""Rollouts that are requested while others run: the same tokens, free rows at once, a cache that grows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from arrol.configs.method import QualityConfig, UniformRule
from arrol.configs.run import EngineConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.pruning.controller import PruningController
from arrol.quality.estimator import QualityEstimator
from arrol.quality.features import FeatureLayout
from arrol.types import FinishReason, Reason, RolloutId, SamplingParams
from doubles import PROMPTS, Spy, requests_for, tokens_of

LAYOUT = FeatureLayout(("last_hidden", "mean_hidden", "logprobs"), 32)


def engine_of(model, **settings):
    return EmbeddedEngine(model, EngineConfig(**settings), LAYOUT)


class Caller:
    """A ``more`` that answers from a list, once per call, and remembers what it was told and when."""

    def __init__(self, *answers, clock=lambda: 0):
        self.answers, self.told, self.when, self.clock = list(answers), [], [], clock

    def __call__(self, news):
        assert not torch.is_inference_mode_enabled()
        self.told += [rollout_id for rollout_id, _ in news]
        self.when.append(self.clock())
        assert [rollout_id for rollout_id, _ in news] == sorted(rollout_id for rollout_id, _ in news)
        return self.answers.pop(0) if self.answers else []


def wave_of(request, first, size, **changes):
    return replace(request, first=first, size=size, **changes)


def logprobs_of(groups):
    return [[completion.sampler_logprobs_T.tolist() for completion in group] for group in groups]


@pytest.mark.parametrize("rows", [3, 256])
def test_tokens_do_not_depend_on_when_a_rollout_was_asked_for(make_model, rows):
    """Two waves of two groups and two new prompts through ``more`` against all at once; a longer prompt among them."""
    model, params = make_model(), SamplingParams(18, stop_token_ids=(4, 9))
    whole = engine_of(model).generate(requests_for(PROMPTS, 4), params, seed=7)
    requests = requests_for(PROMPTS, 4)
    first = [wave_of(requests[0], 0, 2), wave_of(requests[1], 0, 2)]
    later = [[wave_of(requests[0], 2, 2), requests[2]], [], [wave_of(requests[1], 2, 2), requests[3]]]
    more = Caller(*later)
    parts = engine_of(model, max_rows=rows).generate(first, params, seed=7, more=more)
    wanted = [whole[0][:2], whole[1][:2], whole[0][2:], whole[2], whole[1][2:], whole[3]]
    assert tokens_of(parts) == tokens_of(wanted)
    for mine, theirs in zip(logprobs_of(parts), logprobs_of(wanted), strict=True):
        for one, other in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    assert sorted(more.told) == sorted(i for request in requests for i in request.rollout_ids)


def test_what_runs_is_bit_for_bit_the_same_while_the_cache_grows(make_model):
    """No rollout joins, so every decode step differs from that of the plain call in its memory only."""
    model, params = make_model(), SamplingParams(40)
    requests = requests_for(PROMPTS, 3)
    plain = engine_of(model).generate(requests, params, seed=1)
    engine, calls = engine_of(model), []
    cache, begin = engine._cache, engine._cache.begin_step

    def begin_step(width):
        if len(calls) in (5, 20):
            cache.reserve(10 * cache.num_rows, width)
        calls.append(width)
        return begin(width)

    cache.begin_step = begin_step
    grown = engine.generate(requests, params, seed=1)
    assert tokens_of(grown) == tokens_of(plain)
    assert logprobs_of(grown) == logprobs_of(plain)
    assert cache._memory[0].numel() > 10 * 12 * 16 * 16


def test_free_rows_are_taken_while_others_run(make_model):
    """Two rows, every end asks for one more: both are busy, but after an end at the first token, until none is left."""
    model = make_model()
    engine, busy = engine_of(model, max_rows=2), []
    real = engine.step

    def counted(token_S, cache, width):
        busy.append(len(token_S))
        return real(token_S, cache, width)

    engine.step = counted
    (request,) = requests_for(PROMPTS[:1], 12)
    left = [wave_of(request, index, 1) for index in range(2, 12)]

    def more(news):
        chosen = left[: len(news)]
        del left[: len(news)]
        return chosen

    params = SamplingParams(30, stop_token_ids=(4, 7, 9))
    groups = engine.generate([wave_of(request, 0, 2)], params, seed=3, more=more)
    assert len(groups) == 11
    assert len({c.num_tokens for group in groups for c in group}) > 3, "rows must end at different times"
    alone = next((step for step in range(len(busy)) if set(busy[step:]) <= {1}), len(busy))
    at_once = sum(c.num_tokens == 1 for group in groups for c in group)
    assert busy[:alone].count(1) <= at_once < 4
    assert alone > len(busy) // 2
    assert tokens_of([[c for group in groups for c in group]]) == tokens_of(
        engine_of(model).generate([request], params, seed=3)
    )


def test_rows_and_columns_grow_for_later_requests(make_model):
    model, params = make_model(), SamplingParams(10)
    long = tuple(3 + i % 20 for i in range(70))
    first, second = requests_for([PROMPTS[1], long], 5)
    engine = engine_of(model)
    groups = engine.generate([wave_of(first, 0, 1)], params, seed=0, more=Caller([second, wave_of(first, 1, 4)]))
    assert engine._cache._tensors[0].shape[0] >= 9
    assert engine._cache._tensors[0].shape[2] == 80
    plain = engine_of(model).generate([first, second], params, seed=0)
    assert tokens_of(groups) == tokens_of([plain[0][:1], plain[1], plain[0][1:]])
    again = engine.generate([first, second], params, seed=0)
    assert tokens_of(again) == tokens_of(plain)


def test_rows_that_run_move_along_when_there_are_more(make_model):
    """The long prompt comes while others are half-way; the first call holds two rows of eleven columns and less."""
    model, params = make_model(), SamplingParams(24, stop_token_ids=(4, 7))
    long = tuple(3 + i % 20 for i in range(50))
    first, second = requests_for([PROMPTS[0], long], 8)
    spy = Spy((3,), stops=[RolloutId(1, 0, 1)])
    engine = engine_of(model)
    more = Caller([second, wave_of(first, 3, 5)], clock=lambda: engine.clock)
    groups = engine.generate([wave_of(first, 0, 3)], params, seed=2, controller=spy, more=more)
    assert more.when[0] <= 3
    plain = engine_of(model).generate([first, second], params, seed=2)
    expected = [plain[0][:3], plain[1], plain[0][3:]]
    for group, whole in zip(groups, expected, strict=True):
        for mine, theirs in zip(group, whole, strict=True):
            stopped = mine.finish_reason is FinishReason.PRUNED
            assert mine.token_ids == (theirs.token_ids[:3] if stopped else theirs.token_ids)
            np.testing.assert_allclose(mine.sampler_logprobs_T, theirs.sampler_logprobs_T[: mine.num_tokens], atol=1e-5)
            assert stopped or mine.num_tokens <= 3 or 3 in mine.features_at
    assert [c.finish_reason for c in groups[0]].count(FinishReason.PRUNED) == 1


def test_the_first_wave_is_pruned_and_the_rescue_is_not(make_model):
    rule = UniformRule(warmup_steps=0, probe_tokens=(4,), min_survivors=1)
    estimator = QualityEstimator(QualityConfig(), LAYOUT, (4,), seed=0)
    engine, params = engine_of(make_model()), SamplingParams(12)
    for step in (1, 2):
        controller = PruningController(rule, estimator, seed=0)
        (request,) = requests_for(PROMPTS[:1], 8, step)
        more = Caller([wave_of(request, 8, 4, prune=False)], [wave_of(request, 12, 4)])
        groups = engine.generate([request], params, seed=0, controller=controller, more=more)
        pruned = [[c.finish_reason for c in group].count(FinishReason.PRUNED) for group in groups]
        assert pruned == [4, 0, 2]
        decisions = controller.decisions(step, 0)
        assert [d.reason for d in decisions] == [Reason.DRAW] * 8 + [Reason.RESCUE] * 4 + [Reason.DRAW] * 4
        assert {d.survival for d in decisions[8:12]} == {1.0}
        assert all(4 in c.features_at for group in groups for c in group)


def test_two_calls_with_more_are_independent(make_model):
    engine, params = engine_of(make_model(), max_rows=4), SamplingParams(9, stop_token_ids=(4,))
    written = []
    for _ in range(2):
        requests = requests_for(PROMPTS, 3)
        more = Caller(requests[1:])
        written.append(tokens_of(engine.generate(requests[:1], params, seed=5, more=more)))
        assert sorted(more.told) == sorted(i for request in requests for i in request.rollout_ids)
    plain = tokens_of(engine.generate(requests_for(PROMPTS, 3), params, seed=5))
    assert written == [plain, plain]


def test_more_that_wants_nothing_changes_nothing(make_model):
    engine, params = engine_of(make_model()), SamplingParams(14, stop_token_ids=(4,))
    plain = engine.generate(requests_for(PROMPTS, 4), params, seed=1)
    asked = engine.generate(requests_for(PROMPTS, 4), params, seed=1, more=lambda news: [])
    assert (tokens_of(plain), logprobs_of(plain)) == (tokens_of(asked), logprobs_of(asked))
    assert engine.generate([], params, seed=1, more=lambda news: requests_for(PROMPTS, 1)) == []
    empty = requests_for(PROMPTS[:2], 0)
    assert engine.generate(empty, params, seed=1, more=lambda news: requests_for(PROMPTS, 1)) == [[], []]
    (one,) = requests_for(PROMPTS[:1], 1)
    more = Caller([wave_of(one, 1, 0)])
    assert [len(group) for group in engine.generate([one], params, seed=1, more=more)] == [1, 0]
