"""Attention of a decode step, one query per row, as two batched matrix products.

The fused kernels of torch are built for many queries per key; with one they work on blocks that are almost empty.
Legend: ``S`` rows, ``H`` query heads, ``J`` key-value heads, ``K`` head size, ``W`` columns.
"""

from __future__ import annotations

import torch

from arrol.engines.embedded.cache import RowCache
from arrol.engines.embedded.decoder import Attend
from arrol.engines.embedded.support import additive


def over_rows(cache: RowCache, mask_S11W: torch.Tensor, scaling: float) -> Attend:
    """Attention of the step that ``cache.begin_step`` opened with this mask; stores the new keys and values."""
    live, heads, width = len(mask_S11W), cache.num_heads, mask_S11W.shape[-1]
    bias = additive(mask_S11W, torch.float32).expand(live, heads, 1, width).reshape(live * heads, 1, width)

    def attend(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        keys, values = cache.update(key[:, :, None], value[:, :, None], layer)
        queries = query.reshape(live * heads, -1, query.shape[-1])  # queries of one key-value head are adjacent
        scores = torch.baddbmm(bias, queries, keys.flatten(0, 1).transpose(1, 2), alpha=scaling)
        return torch.bmm(scores.softmax(-1), values.flatten(0, 1)).view(query.shape)

    return attend
