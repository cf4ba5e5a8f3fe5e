"""The same function with wider heads, for attention kernels that know only some head sizes.

Widening from k to K dimensions per head changes nothing when

* projections get zero rows (queries, keys, values) and zero columns (output);
* a dimension keeps its rotary frequency: pairs (i, i + k/2) move to (i, i + K/2) and the base theta to theta^(K/k), so
  that theta'^(-2i/K) = theta^(-2i/k);
* the softmax scale 1/sqrt(K) is made good by sqrt(K/k) on the queries;
* where queries and keys are normalised per head (Qwen3), the mean square over K dimensions is k/K of that over k, made
  good by sqrt(k/K) on the norm's weight. The norm's epsilon is not rescaled: 1e-6 against squares of about 1.

Tested against Hugging Face's own forward pass, for Qwen3 and Llama.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from arrol.errors import ModelError

PADDABLE = ("qwen3", "llama")


def padded_size(head_size: int, supported: Iterable[int]) -> int:
    """The smallest supported size that holds a head."""
    enough = [size for size in supported if size >= head_size]
    if not enough:
        raise ModelError(
            f"head_dim = {head_size}: larger than any that this attention kernel knows; use another engine"
        )
    return min(enough)


def head_size_of(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def padded_config(config: Any, head_size: int) -> Any:
    """A copy of a Hugging Face config for heads of ``head_size``."""
    old = head_size_of(config)
    if config.model_type not in PADDABLE or old % 2 or head_size % 2 or head_size < old:
        raise ModelError(
            f"model_type = {config.model_type!r}: heads of {old} cannot be widened to {head_size}; "
            f"known: {', '.join(PADDABLE)}, even sizes"
        )
    rope = dict(config.rope_parameters)
    if rope.get("rope_type", "default") != "default":
        raise ModelError(
            f"rope_type = {rope['rope_type']!r}: frequencies would change; only the default can be widened"
        )
    wider = copy.deepcopy(config)
    wider.head_dim = head_size
    wider.rope_parameters = {**rope, "rope_theta": float(rope["rope_theta"]) ** (head_size / old)}
    return wider


def padded_weights(
    weights: Iterable[tuple[str, torch.Tensor]], config: Any, head_size: int
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
    """Zeros behind."""
    shape = list(tensor.shape)
    shape[dim] = size - shape[dim]
    return torch.cat([tensor, tensor.new_zeros(shape)], dim)


def _spread(tensor: torch.Tensor, size: int, *, dim: int) -> torch.Tensor:
    """Zeros behind each half, where rotary pairs begin."""
    first, second = tensor.chunk(2, dim)
    return torch.cat([_extend(first, size // 2, dim=dim), _extend(second, size // 2, dim=dim)], dim)
