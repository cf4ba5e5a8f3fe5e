"""Rows and columns that carry no loss leave a microbatch of TRL. Torch, pure functions of TRL's ``inputs``.

Worked example: of two rows, one stopped; its row goes, and with it the columns that only its prompt filled.
Legend: ``R`` rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

UNSHRINKABLE = ("pixel_values", "image_grid_thw", "num_images")
"""Inputs whose rows are not completions."""


def live_rows(inputs: Mapping[str, Any]) -> torch.Tensor:
    """bool ``[R]``: rows that have a token in the loss."""
    mask = inputs["completion_mask"]
    return (mask * inputs["tool_mask"] if "tool_mask" in inputs else mask).any(1)


def without_loss(inputs: Mapping[str, Any], left_out_R: torch.Tensor) -> dict[str, Any]:
    """The same, and these rows have no token in the loss: they may have to fill a microbatch up."""
    return {**inputs, "completion_mask": inputs["completion_mask"] * (~left_out_R)[:, None]}


def keep_rows(inputs: Mapping[str, Any], row_K: torch.Tensor) -> dict[str, Any]:
    """The chosen rows of every tensor and list, without columns that all of them pad."""
    rows = len(inputs["completion_mask"])
    kept = {key: _rows(value, rows, row_K) for key, value in inputs.items()}
    width, prompt_width = inputs["completion_mask"].shape[1], inputs["prompt_mask"].shape[1]
    longest = max(1, int(kept["completion_mask"].sum(1).max()))
    longest_prompt = max(1, int(kept["prompt_mask"].sum(1).max()))
    for key, value in kept.items():
        if not torch.is_tensor(value) or value.ndim != 2:
            continue
        if key.startswith("prompt_"):
            kept[key] = value[:, prompt_width - longest_prompt :]
        elif value.shape[1] == width:
            kept[key] = value[:, :longest]
    return kept


def _rows(value: Any, rows: int, row_K: torch.Tensor) -> Any:
    if torch.is_tensor(value) and value.ndim and len(value) == rows:
        return value[row_K]
    return [value[row] for row in row_K.tolist()] if isinstance(value, list) and len(value) == rows else value
