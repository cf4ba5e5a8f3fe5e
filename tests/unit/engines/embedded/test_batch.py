"""Little memory costs rows and time, never a rollout, a token or the run."""

import logging

import numpy as np
import pytest
import torch

from arrol.configs.run import EngineConfig
from arrol.engines.embedded import batch, memory
from arrol.engines.embedded.cache import RowCache
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.errors import ConfigError, ModelError
from arrol.quality.features import FeatureLayout
from arrol.types import RolloutId, SamplingParams
from doubles import PROMPTS, Spy, requests_for, tokens_of

LAYOUT = FeatureLayout(("last_hidden", "mean_hidden", "logprobs"), 32)
PARAMS = SamplingParams(40, stop_token_ids=(4, 7))
ROW_BYTES = 64 * (2 * 2 + 1) * 2 * 8 * 4
"""One rollout of the longest prompt, 11, and 40 tokens: 64 columns, 2 layers and the spare, 2 heads of size 8."""


def engine_of(model, *, flat=True, **settings):
    engine = EmbeddedEngine(model, EngineConfig(**settings), LAYOUT)
    assert engine._flat is not None
    engine._flat = engine._flat if flat else None
    return engine


def watched(engine):
    """Rows of each decode step, and the largest cache that was ever held."""
    rows, most, real = [], [0], engine.step

    def step(token_S, cache, width):
        rows.append(len(token_S))
        hidden_SD = real(token_S, cache, width)
        most[0] = max(most[0], cache.num_bytes)
        return hidden_SD

    engine.step = step
    return rows, most


def failing(real, condition, error=None):
    """``real``, out of memory where the condition holds."""

    def call(*args, **kwargs):
        if condition(*args, **kwargs):
            raise error or torch.OutOfMemoryError("CUDA out of memory")
        return real(*args, **kwargs)

    return call


def assert_same(groups, plain):
    assert tokens_of(groups) == tokens_of(plain)
    for mine, theirs in zip(groups, plain, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert one.finish_reason is other.finish_reason
            np.testing.assert_allclose(one.sampler_logprobs_T, other.sampler_logprobs_T, atol=1e-5)


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "transformers"])
def test_a_small_budget_is_kept_by_fewer_rows_and_changes_no_token(make_model, flat):
    plain = engine_of(make_model()).generate(requests_for(PROMPTS, 8), PARAMS, seed=3)
    budget = 5.4 * ROW_BYTES
    engine = engine_of(make_model(), flat=flat, cache_gib=budget / memory.GIB)
    rows, most = watched(engine)
    assert_same(engine.generate(requests_for(PROMPTS, 8), PARAMS, seed=3), plain)
    assert max(rows) == 4, "a quarter is for prompts"
    assert most[0] <= budget
    short = SamplingParams(10, stop_token_ids=(4, 7))
    del rows[:]
    engine.generate(requests_for(PROMPTS, 8), short, seed=3)
    assert max(rows) == 8, "shorter rollouts, more rows"


@pytest.mark.parametrize("rows", [256, 2])
def test_decode_steps_are_counted_per_call(make_model, rows):
    engine = engine_of(make_model(), max_rows=rows)
    seen, _ = watched(engine)
    for seed in (0, 1):
        groups = engine.generate(requests_for(PROMPTS, 4), PARAMS, seed=seed)
        assert engine.decode_steps == len(seen)
        longest = max(len(one.token_ids) for group in groups for one in group)
        assert engine.decode_steps == longest - 1 if rows == 256 else engine.decode_steps > longest
        seen.clear()


def test_memory_follows_what_lives_not_what_could(make_model):
    """256 rows of 38,000 tokens would be 6 GB; 32 rollouts of at most 30 tokens are less than a megabyte."""
    engine = engine_of(make_model())
    _, most = watched(engine)
    prompt, short = PROMPTS[:1], Spy((30,), [RolloutId(1, 0, index) for index in range(32)])
    engine.generate(requests_for(prompt, 32), SamplingParams(38_000), seed=0, controller=short)
    assert most[0] < 32 * 48 * (2 * 2 + 1) * 2 * 8 * 4 * 1.5
    assert engine.begin()[0] is engine._cache


def test_auto_takes_half_of_the_free_memory(make_model, monkeypatch):
    engine = engine_of(make_model())
    rows, most = watched(engine)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 11 * ROW_BYTES - most[0])
    engine.generate(requests_for(PROMPTS, 8), PARAMS, seed=3)
    assert max(rows) == 4
    engine.generate(requests_for(PROMPTS, 8), PARAMS, seed=3)
    assert max(rows) == 4, "its own memory does not count against it"
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    engine.generate(requests_for(PROMPTS[:1], 2), PARAMS, seed=3)
    assert rows[-1] == 1, "one row is always tried"


def test_a_budget_too_small_for_one_rollout_is_refused(make_model):
    engine = engine_of(make_model(), cache_gib=0.5 * ROW_BYTES / memory.GIB)
    with pytest.raises(ConfigError) as caught:
        engine.generate(requests_for(PROMPTS, 2), PARAMS, seed=0)
    assert str(caught.value) == (
        "engine.cache_gib = 9.53674e-06: one rollout of 64 tokens needs 2.54e-05 GiB; "
        "raise it, or lower sampling.max_completion_tokens"
    )


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "transformers"])
def test_a_step_that_runs_out_of_memory_suspends_rows_and_loses_nothing(make_model, flat, caplog):
    """The sixth step of more than five rows fails, late enough for features, early enough for siblings to wait."""
    plain, seen = Spy((3, 8)), Spy((3, 8))
    expected = engine_of(make_model()).generate(requests_for(PROMPTS, 8), PARAMS, seed=3, controller=plain)
    engine = engine_of(make_model(), flat=flat)
    steps = []

    def too_many(*args):
        steps.append(engine._cache.num_live)
        return len(steps) > 6 and engine._cache.num_live > 5

    model = engine._model.model
    if flat:
        engine._flat = _Flat(engine._flat, too_many)
    else:
        model.forward = failing(model.forward, lambda **kw: kw["input_ids"].shape[1] == 1 and too_many())
    with caplog.at_level(logging.WARNING, batch.__name__):
        groups = engine.generate(requests_for(PROMPTS, 8), PARAMS, seed=3, controller=seen)
    assert_same(groups, expected)
    assert max(steps[:6]) == 20
    assert max(steps[-20:]) <= 5
    assert engine.most_rows <= 5
    assert "memory ran out; the embedded engine goes on with" in caplog.text
    ours, theirs = ({(e.rollout_id, e.probe): e.features_F for e in spy.events} for spy in (seen, plain))
    assert len(seen.events) == len(plain.events), "no rollout is shown twice"
    assert ours.keys() == theirs.keys()
    for key, features_F in theirs.items():
        np.testing.assert_allclose(ours[key], features_F, atol=1e-4)
    assert sorted(seen.ended) == sorted(plain.ended)


class _Flat:
    """A flat decoder that runs out of memory."""

    def __init__(self, real, condition):
        self._real, self._condition, self.scaling = real, condition, real.scaling

    def __call__(self, ids_N, positions_N, attend):
        call = failing(self._real, lambda *args: self._condition())
        return call(ids_N, positions_N, attend)


@pytest.mark.parametrize("cells", [64 * 16, 7 * 16 * 16, 7 * 24 * 16])
def test_a_cache_that_cannot_grow_goes_on_with_fewer_rows(make_model, monkeypatch, cells):
    """Tensors may have so many cells: one row of 64 columns, seven of 16 or 24; 12 rollouts want to start."""
    expected = engine_of(make_model()).generate(requests_for(PROMPTS, 3), PARAMS, seed=3)
    engine = engine_of(make_model())
    empty = engine._cache._empty

    class Memory(torch.Tensor):
        """Out of memory beyond ``cells``."""

        def new_zeros(self, count):
            if count > cells:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
            return empty.new_zeros(count)

    engine._cache._empty = empty.as_subclass(Memory)
    assert_same(engine.generate(requests_for(PROMPTS, 3), PARAMS, seed=3), expected)
    assert 1 <= engine.most_rows <= 7


def test_a_prefill_that_runs_out_of_memory_takes_fewer_prompts(make_model):
    expected = engine_of(make_model()).generate(requests_for(PROMPTS, 4), PARAMS, seed=3)
    engine, sizes = engine_of(make_model()), []
    real = engine.prefill
    engine.prefill = failing(real, lambda prompts: sizes.append(len(prompts)) or len(prompts) > 1)
    assert_same(engine.generate(requests_for(PROMPTS, 4), PARAMS, seed=3), expected)
    assert sizes[:3] == [4, 2, 1]


def test_sampling_that_runs_out_of_memory_takes_fewer_rows_at_a_time(make_model):
    expected = engine_of(make_model()).generate(requests_for(PROMPTS, 4), PARAMS, seed=3)
    engine = engine_of(make_model())
    engine.logits = failing(engine.logits, lambda hidden_SD: len(hidden_SD) > 4)
    assert_same(engine.generate(requests_for(PROMPTS, 4), PARAMS, seed=3), expected)
    assert engine.most_rows == 256


@pytest.mark.parametrize("where", ["prefill", "step", "logits"])
def test_one_row_that_does_not_fit_ends_the_run_in_one_line(make_model, where):
    engine = engine_of(make_model())
    setattr(engine, where, failing(getattr(engine, where), lambda *args: True))
    with pytest.raises(ModelError) as caught:
        engine.generate(requests_for(PROMPTS[:2], 2), PARAMS, seed=3)
    assert str(caught.value) == (
        "engine.max_rows = 256: memory ran out with one row of up to 48 tokens; lower sampling.max_completion_tokens, "
        "or free memory"
    )


def test_other_errors_are_not_swallowed(make_model):
    engine = engine_of(make_model())
    engine.step = failing(engine.step, lambda *args: True, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        engine.generate(requests_for(PROMPTS, 2), PARAMS, seed=3)


def test_a_later_call_starts_with_the_rows_that_fitted(make_model):
    engine = engine_of(make_model())
    rows, _ = watched(engine)
    engine.step = failing(engine.step, lambda token_S, cache, width: len(token_S) > 5)
    first = engine.generate(requests_for(PROMPTS, 4), PARAMS, seed=3)
    tried = len(rows)
    assert tokens_of(engine.generate(requests_for(PROMPTS, 4), PARAMS, seed=3)) == tokens_of(first)
    assert max(rows[tried:]) == engine.most_rows <= 5


def test_a_failed_call_leaves_an_engine_that_works(make_model):
    engine, expected = (
        engine_of(make_model()),
        engine_of(make_model()).generate(requests_for(PROMPTS, 2), PARAMS, seed=3),
    )
    real = RowCache.end_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowCache, "end_step", failing(real, lambda cache: int(cache.length_S[0]) > 9, KeyError("x")))
        with pytest.raises(KeyError):
            engine.generate(requests_for(PROMPTS, 2), PARAMS, seed=3)
    assert_same(engine.generate(requests_for(PROMPTS, 2), PARAMS, seed=3), expected)
