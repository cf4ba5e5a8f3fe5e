"""TRL's ``AsyncGRPOTrainer`` on a machine without CUDA, for tests and first steps.

Two things in TRL 1.16 need a GPU, and no argument of the trainer changes them: its constructor asks CUDA for the name
of the device, and attention over its tree of shared prefixes is a kernel of FlashAttention 3. :func:`on_cpu` answers
the first and replaces the second through transformers' public registry. Same results, no speed: one call of
``scaled_dot_product_attention`` per segment of the tree.
Legend: ``H`` heads, ``N`` packed tokens, ``K`` head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface


@contextmanager
def on_cpu() -> Iterator[None]:
    """Build an ``AsyncGRPOTrainer`` within it; nothing changes where CUDA is available."""
    if torch.cuda.is_available():
        yield
        return
    from trl.experimental.async_grpo.packing import TREE_ATTENTION

    with patch("torch.cuda.get_device_name", lambda device=None: "cpu"):
        yield
    AttentionInterface.register(TREE_ATTENTION, tree_attention)


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: object,
    **tree: object,
) -> tuple[torch.Tensor, None]:
    """``[1, N, H, K]``: each segment attends to its path from the root; arguments are those of TRL's kernel.

    ``tree``: ``tree_kv_index``, ``tree_cu_seqlens_q`` and ``tree_cu_seqlens_k`` of TRL's packing, ``scaling``,
    ``sliding_window``. NotImplementedError for soft-capped logits.
    """
    if tree.get("softcap"):
        raise NotImplementedError("softcap: TRL's kernel caps attention logits, plain torch does not")
    paths, query_ends, key_ends = (tree[f"tree_{name}"] for name in ("kv_index", "cu_seqlens_q", "cu_seqlens_k"))
    assert isinstance(paths, torch.Tensor)
    assert isinstance(query_ends, torch.Tensor)
    assert isinstance(key_ends, torch.Tensor)
    window, scale = tree.get("sliding_window"), tree.get("scaling")
    assert window is None or isinstance(window, int)
    assert scale is None or isinstance(scale, float)
    bounds = zip(*(ends.tolist()[shift:] for ends in (query_ends, key_ends) for shift in (0, 1)), strict=False)
    parts = []
    for first_query, last_query, first_key, last_key in bounds:
        path = paths[first_key:last_key]
        segment = query[:, :, first_query:last_query]
        columns = torch.arange(len(path), device=query.device)
        rows = columns[len(path) - (last_query - first_query) :, None]
        mask = columns <= rows
        if window:
            mask = mask & (columns > rows - window)
        grouped = query.shape[1] != key.shape[1]
        seen = scaled_dot_product_attention(
            segment, key[:, :, path], value[:, :, path], attn_mask=mask, scale=scale, enable_gqa=grouped
        )
        parts.append(seen)
    return torch.cat(parts, dim=2).transpose(1, 2), None
