"""Rows keep their bits, whoever leaves; columns beyond a row's length are never seen."""

from types import SimpleNamespace

import pytest
import torch

from arrol.configs.run import EngineConfig
from arrol.engines.embedded.cache import PromptCache, RowCache
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.types import SamplingParams
from doubles import PROMPTS, requests_for

CONFIG = SimpleNamespace(
    num_key_value_heads=2, num_attention_heads=4, hidden_size=12, num_hidden_layers=3, head_dim=None
)


def filled_cache(lengths=(4, 2, 5, 3, 1), rows=6, width=8):
    """Live rows of these lengths with random contents."""
    generator = torch.Generator().manual_seed(0)
    cache = RowCache(CONFIG, rows, width, device=torch.device("cpu"), dtype=torch.float32)
    for row, length in enumerate(lengths):
        prompts = PromptCache()
        for layer in range(3):
            keys, values = torch.randn(2, 1, 2, length, 3, generator=generator)
            prompts.update(keys, values, layer)
        cache.fan_out(prompts, 0, length, slice(row, row + 1))
    return cache


def contents(cache, row):
    length = int(cache.length_S[row])
    return torch.stack([t[row, :, :length] for t in (*cache._keys, *cache._values)])


def test_compaction_moves_rows_bit_for_bit_and_touches_no_other():
    cache = filled_cache()
    before = [contents(cache, row) for row in range(5)]
    cache.compact(torch.tensor([3, 4]), torch.tensor([0, 2]), 3, width=3)
    assert cache.num_live == 3
    assert cache.length_S[:3].tolist() == [3, 2, 1]
    for row, origin in enumerate((3, 1, 4)):
        assert torch.equal(contents(cache, row), before[origin])


def test_fan_out_copies_a_prompt_into_each_row():
    cache = filled_cache(lengths=())
    prompts = PromptCache()
    for layer in range(3):
        prompts.update(torch.randn(2, 2, 5, 3), torch.randn(2, 2, 5, 3), layer)
    cache.fan_out(prompts, 1, 4, slice(0, 3))
    assert cache.num_live == 3
    for row in range(3):
        assert torch.equal(contents(cache, row)[0], prompts.keys[0][1, :, :4])
        assert torch.equal(contents(cache, row)[5], prompts.values[2][1, :, :4])
    with pytest.raises(AssertionError):
        cache.fan_out(prompts, 0, 4, slice(4, 5))
    with pytest.raises(AssertionError):
        cache.fan_out(prompts, 0, 4, slice(3, 9))


def test_a_step_writes_one_token_at_each_rows_own_length():
    cache = filled_cache()
    before = [contents(cache, row) for row in range(5)]
    mask = cache.begin_step(6)
    assert mask.shape == (5, 1, 1, 8), "all columns there are"
    assert mask.sum(-1).flatten().tolist() == [5, 3, 6, 4, 2], "the fed token sees itself"
    for layer in range(3):
        fed = torch.full((5, 2, 1, 3), float(layer + 1))
        keys, values = cache.update(fed, -fed, layer)
        assert keys.shape == values.shape == (5, 2, 8, 3)
        assert keys.is_contiguous()
    cache.end_step()
    assert cache.length_S[:5].tolist() == [5, 3, 6, 4, 2]
    for row in range(5):
        now = contents(cache, row)
        assert torch.equal(now[:, :, :-1], before[row])
        assert now[:, 0, -1, 0].tolist() == [1, 2, 3, -1, -2, -3]


def test_columns_are_added_when_needed_and_rows_keep_their_bits():
    cache = filled_cache(width=50)
    before = [contents(cache, row) for row in range(5)]
    for width, columns in ((6, 16), (16, 16), (17, 32), (33, 48), (49, 50), (20, 50)):
        assert cache.begin_step(width).shape == (5, 1, 1, columns)
        assert all(torch.equal(contents(cache, row), before[row]) for row in range(5))
    with pytest.raises(AssertionError):
        cache.begin_step(51)
    cache.clear()
    assert cache.begin_step(1).shape == (0, 1, 1, 16)


def test_a_mask_wider_than_there_are_rows():
    cache = filled_cache(lengths=(7, 2), rows=2)
    assert cache.begin_step(8).sum(-1).flatten().tolist() == [8, 3]


def test_a_wiped_row_holds_nothing_and_its_neighbours_everything():
    cache = filled_cache()
    for tensor in (*cache._keys, *cache._values):
        tensor[1] = float("nan")
    before = contents(cache, 2)
    cache.wipe(torch.tensor([1]))
    assert all((tensor[1] == 0).all() for tensor in (*cache._keys, *cache._values))
    assert torch.equal(contents(cache, 2), before)


def test_layers_are_prefilled_in_order():
    with pytest.raises(AssertionError):
        PromptCache().update(torch.zeros(1), torch.zeros(1), 1)


def test_an_engine_keeps_its_cache_while_it_is_large_enough(make_model):
    engine = EmbeddedEngine(make_model(), EngineConfig(max_rows=6))
    engine.generate(requests_for(PROMPTS, 2), SamplingParams(6), seed=0)
    first = engine._cache
    engine.generate(requests_for(PROMPTS[:1], 2), SamplingParams(3), seed=0)
    assert engine._cache is first
    engine.generate(requests_for(PROMPTS, 2), SamplingParams(30), seed=0)
    assert engine._cache is not first
    assert engine._cache.max_rows == 6


def test_surviving_rows_are_bit_identical_in_a_running_engine(make_model, monkeypatch):
    """At every compaction of a real run, the rows that stay hold the same bits before and after."""
    moved = []
    compact = RowCache.compact

    def checked(self, sources, holes, num_live, width):
        before = {int(s): contents(self, int(s)) for s in range(self.num_live)}
        compact(self, sources, holes, num_live, width)
        origin = {**{s: s for s in range(num_live)}, **dict(zip(holes.tolist(), sources.tolist(), strict=True))}
        assert all(torch.equal(contents(self, row), before[origin[row]]) for row in range(num_live))
        moved.append(len(holes))

    monkeypatch.setattr(RowCache, "compact", checked)
    params = SamplingParams(25, stop_token_ids=(4, 7))
    EmbeddedEngine(make_model(), EngineConfig(max_rows=9)).generate(requests_for(PROMPTS, 8), params, seed=0)
    assert sum(moved) > 5


@pytest.mark.parametrize(("rows", "width"), [(6, 50), (11, 8), (11, 50)])
def test_a_cache_that_grows_keeps_the_bits_of_its_rows_and_goes_on(rows, width):
    cache, other = filled_cache(), filled_cache(rows=rows, width=width)
    before = [contents(cache, row) for row in range(5)]
    cache.grow(rows, width)
    assert (cache.max_rows, cache.max_width, cache.num_live) == (rows, width, 5)
    assert all(torch.equal(contents(cache, row), before[row]) for row in range(5))
    assert len(cache.length_S) == rows
    for fed in range(2):
        for one in (cache, other):
            one.begin_step(6 + fed)
            for layer in range(3):
                new = torch.full((5, 2, 1, 3), float(layer + fed))
                one.update(new, -new, layer)
            one.end_step()
    assert all(torch.equal(contents(cache, row), contents(other, row)) for row in range(5))
    prompts = PromptCache()
    for _ in range(3):
        prompts.update(torch.ones(1, 2, min(width, 40), 3), torch.ones(1, 2, min(width, 40), 3), len(prompts.keys))
    cache.fan_out(prompts, 0, min(width, 40), slice(5, rows))
    assert cache.num_live == rows
    assert all(torch.equal(contents(cache, row), contents(other, row)) for row in range(5))
    assert torch.equal(contents(cache, rows - 1), torch.ones_like(contents(cache, rows - 1)))


def test_a_cache_of_nobody_grows_and_one_that_is_large_enough_stays():
    cache = filled_cache(lengths=(), rows=1)
    cache.grow(4, 9)
    memory = cache._memory[0]
    cache.grow(4, 9)
    assert cache._memory[0] is memory
    with pytest.raises(AssertionError):
        cache.grow(3, 9)
