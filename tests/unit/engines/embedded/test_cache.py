"""Rows keep their bits when others leave or memory grows; columns beyond a row's length are never seen."""

from types import SimpleNamespace

import pytest
import torch

from arrol.configs.run import EngineConfig
from arrol.engines.embedded.cache import AMORTISED, PromptCache, RowCache
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.types import SamplingParams
from doubles import PROMPTS, requests_for

CONFIG = SimpleNamespace(
    num_key_value_heads=2, num_attention_heads=4, hidden_size=12, num_hidden_layers=3, head_dim=None
)


def filled_cache(lengths=(4, 2, 5, 3, 1), rows=6, width=8):
    """Live rows of these lengths with random contents."""
    generator = torch.Generator().manual_seed(0)
    cache = RowCache(CONFIG, device=torch.device("cpu"), dtype=torch.float32)
    cache.reserve(rows, width)
    for row, length in enumerate(lengths):
        prompts = PromptCache()
        for layer in range(3):
            keys, values = torch.randn(2, 1, 2, length, 3, generator=generator)
            prompts.update(keys, values, layer)
        cache.fan_out(prompts, 0, length, slice(row, row + 1))
    return cache


def contents(cache, row):
    length = int(cache.length_S[row])
    return torch.stack([t[row, :, :length] for t in cache._tensors])


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
    before = [contents(cache, row) for row in range(3)]
    cache.fan_out(prompts, 0, 5, slice(3, 99))
    assert cache.num_rows >= 99
    assert all(torch.equal(contents(cache, row), before[row]) for row in range(3))
    assert torch.equal(contents(cache, 98)[0], prompts.keys[0][0])


def test_a_step_writes_one_token_at_each_rows_own_length():
    cache = filled_cache()
    before = [contents(cache, row) for row in range(5)]
    mask = cache.begin_step(6)
    assert mask.shape == (5, 1, 1, 16), "all columns there are"
    assert mask.sum(-1).flatten().tolist() == [5, 3, 6, 4, 2], "the fed token sees itself"
    for layer in range(3):
        fed = torch.full((5, 2, 1, 3), float(layer + 1))
        keys, values = cache.update(fed, -fed, layer)
        assert keys.shape == values.shape == (5, 2, 16, 3)
        assert keys.is_contiguous()
    cache.end_step()
    assert cache.length_S[:5].tolist() == [5, 3, 6, 4, 2]
    for row in range(5):
        now = contents(cache, row)
        assert torch.equal(now[:, :, :-1], before[row])
        assert now[:, 0, -1, 0].tolist() == [1, 2, 3, -1, -2, -3]


def test_columns_are_added_when_needed_and_rows_keep_their_bits():
    cache = filled_cache()
    before = [contents(cache, row) for row in range(5)]
    for width, columns in ((6, 16), (16, 16), (17, 32), (33, 48), (49, 64), (20, 64)):
        assert cache.begin_step(width).shape == (5, 1, 1, columns)
        assert all(torch.equal(contents(cache, row), before[row]) for row in range(5))
    cache.clear()
    assert cache.begin_step(1).shape == (0, 1, 1, 16)


def test_a_mask_wider_than_there_are_rows():
    cache = filled_cache(lengths=(7, 2), rows=2)
    assert cache.begin_step(8).sum(-1).flatten().tolist() == [8, 3]


def test_a_wiped_row_holds_nothing_and_its_neighbours_everything():
    cache = filled_cache()
    for tensor in cache._tensors:
        tensor[1] = float("nan")
    before = contents(cache, 2)
    cache.wipe(torch.tensor([1]))
    assert all((tensor[1] == 0).all() for tensor in cache._tensors)
    assert torch.equal(contents(cache, 2), before)


def test_layers_are_prefilled_in_order():
    with pytest.raises(AssertionError):
        PromptCache().update(torch.zeros(1), torch.zeros(1), 1)


def test_an_engine_keeps_its_memory_for_the_next_call(make_model):
    engine = EmbeddedEngine(make_model(), EngineConfig(max_rows=6))
    engine.generate(requests_for(PROMPTS, 2), SamplingParams(6), seed=0)
    memory = engine._cache._memory
    engine.generate(requests_for(PROMPTS[:1], 2), SamplingParams(3), seed=0)
    assert all(one is other for one, other in zip(engine._cache._memory, memory, strict=True))


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
    cache, other = filled_cache(rows=5), filled_cache(rows=rows, width=width)
    before = [contents(cache, row) for row in range(5)]
    cache.reserve(rows, width)
    assert cache.num_rows >= rows
    assert len(cache.length_S) >= rows
    assert all(torch.equal(contents(cache, row), before[row]) for row in range(5))
    for fed in range(2):
        for one in (cache, other):
            one.begin_step(6 + fed)
            for layer in range(3):
                new = torch.full((5, 2, 1, 3), float(layer + fed))
                one.update(new, -new, layer)
            one.end_step()
    assert all(torch.equal(contents(cache, row), contents(other, row)) for row in range(5))


def test_memory_follows_the_rows_and_columns_in_use():
    """256 rows of 2,560 columns are possible; 5 rows of at most 40 columns live and are all that is paid for."""
    cache = RowCache(CONFIG, device=torch.device("cpu"), dtype=torch.float32)
    cache.most_tokens = 256 * 2560
    cache.reserve(5, 10)
    assert cache.num_bytes == 5 * 16 * 6 * 2 * 3 * 4
    for row in range(5):
        prompts = PromptCache()
        for _ in range(3):
            prompts.update(torch.ones(1, 2, 10, 3), torch.ones(1, 2, 10, 3), len(prompts.keys))
        cache.fan_out(prompts, 0, 10, slice(row, row + 1))
    for _ in range(30):
        cache.begin_step(int(cache.length_S[0]) + 1)
        cache.end_step()
    assert cache.num_bytes <= AMORTISED * 5 * 48 * cache.bytes_per_token


def test_growth_is_amortised_within_the_budget():
    sizes = {}
    for most_tokens in (10_000, 5 * 70):
        cache = filled_cache(rows=5, width=16)
        cache.most_tokens, sizes[most_tokens] = most_tokens, []
        for width in range(17, 65):
            cache.begin_step(width)
            sizes[most_tokens].append(cache._memory[0].numel() // (2 * 3))
    assert sorted(set(sizes[10_000])) == [5 * 32, 5 * 48, 5 * 72]
    assert max(sizes[5 * 70]) == 5 * 70


def test_rows_survive_an_allocation_that_fails_half_way(monkeypatch):
    """Four of six tensors have new columns when memory ends; three rows go on, in less memory, with the same bits."""
    cache, other = filled_cache(), filled_cache()
    real, left = torch.Tensor.new_zeros, [4]

    def new_zeros(tensor, *shape, **options):
        left[0] -= tensor.dtype == torch.float32
        if left[0] < 0:
            raise torch.OutOfMemoryError
        return real(tensor, *shape, **options)

    monkeypatch.setattr(torch.Tensor, "new_zeros", new_zeros)
    with pytest.raises(torch.OutOfMemoryError):
        cache.begin_step(300)
    before = cache.num_bytes
    cache.num_live = 3
    cache.trim()
    assert cache.num_bytes < 0.6 * before
    monkeypatch.undo()
    for _ in range(20):
        for one, rows in ((cache, 3), (other, 5)):
            one.begin_step(int(one.length_S[:rows].max()) + 1)
            for layer in range(3):
                new = torch.full((rows, 2, 1, 3), float(layer))
                one.update(new, -new, layer)
            one.end_step()
    assert all(torch.equal(contents(cache, row), contents(other, row)) for row in range(3))


def test_a_released_cache_holds_nothing():
    cache = filled_cache()
    cache.release()
    assert (cache.num_bytes, cache.num_live, cache.num_rows) == (0, 0, 0)
    cache.reserve(2, 3)
    assert cache.num_rows == 2
