"""The same function with wider attention heads, for kernels that support only some head sizes.

Widening a head from k to K dimensions changes no output when

* projections get zero rows (queries, keys, values) and zero columns (output);
* a dimension keeps its rotary frequency: pairs (i, i + k/2) move to (i, i + K/2) and the base theta becomes
  theta^(K/k), so that theta'^(-2i/K) = theta^(-2i/k);
* the queries are scaled by sqrt(K/k), which undoes the softmax scale 1/sqrt(K);
* where queries and keys are normalised per head (Qwen3), the norm's weight is scaled by sqrt(k/K): the mean square over
  K dimensions is k/K of that over k. The epsilon is not rescaled: 1e-6 against squares of about 1.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from arrol.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

PADDABLE = ("qwen3", "llama")


def padded_size(head_size: int, supported: Iterable[int]) -> int:
    """The smallest supported size that holds a head."""
    enough = [size for size in supported if size >= head_size]
    if not enough:
        raise ModelError(f"head_dim = {head_size}: no attention kernel of vLLM supports it here; use another engine")
    return min(enough)


def head_size_of(config: PretrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def padded_config(config: PretrainedConfig, head_size: int) -> PretrainedConfig:
    """A copy of a Hugging Face config for heads of ``head_size``."""
    old = head_size_of(config)
    if config.model_type not in PADDABLE or old % 2:
        raise ModelError(
            f"model_type = {config.model_type!r}: its heads of {old} cannot be widened; use one of "
            f"{', '.join(PADDABLE)} with an even head size"
        )
    if head_size % 2 or head_size < old:
        raise ModelError(f"head_size = {head_size}: the model's heads have {old}; give an even number from {old}")
    rope = dict(config.rope_parameters)
    if rope.get("rope_type", "default") != "default":
        raise ModelError(
            f"rope_type = {rope['rope_type']!r}: heads with these frequencies cannot be widened; use type 'default'"
        )
    wider = copy.deepcopy(config)
    wider.head_dim = head_size
    wider.rope_parameters = {**rope, "rope_theta": float(rope["rope_theta"]) ** (head_size / old)}
    return wider


def padded_weights(
    weights: Iterable[tuple[str, torch.Tensor]], config: PretrainedConfig, head_size: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a model of ``config`` for heads of ``head_size``, under the same names."""
    old = head_size_of(config)
    ratio, has_norm = head_size / old, config.model_type == "qwen3"
    for name, tensor in weights:
        kind = name.split(".")[-2] if "." in name else ""
        if kind in ("q_proj", "k_proj"):
            tensor = _spread(tensor.unflatten(0, (-1, old)), head_size, dim=1).flatten(0, 1)
            tensor = tensor * ratio**0.5 if kind == "q_proj" and not has_norm else tensor
        elif kind in ("q_norm", "k_norm"):
            tensor = _spread(tensor, head_size, dim=0) * (1.0 if kind == "q_norm" else ratio**-0.5)
        elif kind == "v_proj":
            tensor = _extend(tensor.unflatten(0, (-1, old)), head_size, dim=1).flatten(0, 1)
        elif kind == "o_proj" and name.endswith("weight"):
            tensor = _extend(tensor.unflatten(1, (-1, old)), head_size, dim=2).flatten(1, 2)
        yield name, tensor


def _extend(tensor: torch.Tensor, size: int, *, dim: int) -> torch.Tensor:
    """Zeros appended up to ``size``."""
    shape = list(tensor.shape)
    shape[dim] = size - shape[dim]
    return torch.cat([tensor, tensor.new_zeros(shape)], dim)


def _spread(tensor: torch.Tensor, size: int, *, dim: int) -> torch.Tensor:
    """Zeros appended to each half: a rotary pair has one member in each."""
    halves = tensor.chunk(2, dim)
    return torch.cat([_extend(half, size // 2, dim=dim) for half in halves], dim)
