"""Gradient checkpointing without dropout: a layer's activations are computed again in the backward pass.

transformers checkpoints layers in training mode alone, where dropout acts; the policy learns in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from arrol.errors import ConfigError


def require_layers(model: Any, field: str) -> None:
    """ConfigError where transformers marks no layers of the model that can be computed again."""
    if not _layers(model):
        raise ConfigError(
            f"{field} = true: {type(model).__name__} has no layers that transformers can compute again; set it to false"
        )


@contextmanager
def recomputed_layers(model: Any, *, enabled: bool = True) -> Iterator[None]:
    """Forward passes inside keep no activations within layers; the backward pass may come later."""
    layers = _layers(model) if enabled else []
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _layers(model: Any) -> list[Any]:
    """The marked layers that lie in no other one."""
    named = {n: module for n, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)}
    return [layer for name, layer in named.items() if not any(name.startswith(f"{other}.") for other in named)]
