"""Attention of one query per row is that of torch, each row over its own tokens only."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from arrol.engines.embedded.attention import over_rows
from arrol.engines.embedded.cache import RowCache


@pytest.mark.parametrize("heads", [2, 6])
def test_each_row_sees_its_own_tokens_and_the_new_one(heads):
    config = SimpleNamespace(num_key_value_heads=2, num_hidden_layers=2, head_dim=4)
    cache = RowCache(config, device=torch.device("cpu"), dtype=torch.float32)
    cache.reserve(3, 1)
    generator = torch.Generator().manual_seed(0)
    fed = torch.randn(19, 2, 2, 3, 2, 4, generator=generator)  # step, layer, key or value, row, head, size
    cache.num_live = 3
    for step, layers in enumerate(fed):
        if step == 5:
            cache.num_live = 2  # the last row leaves, the columns stay
        attend = over_rows(cache, cache.begin_step(step + 1), 0.3)
        for layer, (keys, values) in enumerate(layers[:, :, : cache.num_live]):
            query = torch.randn(cache.num_live, heads, 4, generator=generator)
            seen = attend(layer, query, keys, values)
            past = fed[: step + 1, layer, :, : cache.num_live].permute(1, 2, 3, 0, 4)
            expected = scaled_dot_product_attention(query[:, :, None], *past, scale=0.3, enable_gqa=True)
            torch.testing.assert_close(seen, expected[:, :, 0], atol=1e-6, rtol=1e-5)
        cache.end_step()
