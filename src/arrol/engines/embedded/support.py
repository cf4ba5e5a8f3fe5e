"""Models that the embedded engine runs exactly; others are refused before the first token.

The engine calls the base model and the output embedding itself and passes its own attention mask. Models that do more
(soft caps, scaled logits, sliding windows, other attention kernels) would be silently wrong.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from arrol.errors import ModelError

NEUTRAL = {
    "final_logit_softcapping": (None,),
    "attn_logit_softcapping": (None,),
    "logit_scale": (None, 1.0),
    "logits_scaling": (None, 1.0),
}
"""Field of a model's config -> values that leave the logits as the engine computes them."""
ATTENTION = ("sdpa", "eager")


def require_supported(model: Any) -> None:
    """ModelError naming the field, unless the engine's tokens and log-probabilities will be the model's own."""
    config = model.config
    for name, allowed in NEUTRAL.items():
        value = getattr(config, name, None)
        if value not in allowed:
            raise ModelError(
                f"model.{name} = {value!r}: the embedded engine computes plain logits only; choose another model"
            )
    layers = attention_kinds(config)
    if layers != {"full_attention"}:
        raise ModelError(
            f"model.layer_types = {sorted(layers)}: the embedded engine keeps full attention only; choose another model"
        )
    if getattr(config, "num_key_value_heads", None) is None:
        raise ModelError(
            f"model = {type(model).__name__}: its config has no num_key_value_heads; "
            "the tested architectures are Qwen3 and Llama"
        )
    implementation = getattr(config, "_attn_implementation", "sdpa")
    if implementation not in ATTENTION:
        raise ModelError(
            f"model.attn_implementation = {implementation!r}: the embedded engine brings its own mask; "
            "load with sdpa or eager"
        )
    _require_plain_head(model)


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A bool mask as numbers that ``eager`` attention adds to its scores."""
    return torch.zeros((), dtype=dtype, device=mask.device).where(mask, torch.finfo(dtype).min)


def compute_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Precision of keys and values: that of the weights, or of the autocast in force."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else dtype


def attention_kinds(config: Any) -> set[str]:
    """``full_attention`` or others, over the layers."""
    alone = "full_attention" if getattr(config, "sliding_window", None) is None else "sliding_attention"
    return set(getattr(config, "layer_types", None) or [alone])


def max_positions(config: Any) -> int | None:
    """Longest sequence that a model's config allows, rope scaling included; None where it names no limit."""
    longest = getattr(config, "max_position_embeddings", None)
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if longest is None or scaling.get("rope_type", "default") == "default":
        return longest
    original = scaling.get("original_max_position_embeddings") or longest
    return max(int(longest), int(original * (scaling.get("factor") or 1.0)))


def _require_plain_head(model: Any) -> None:
    """Refuse a model whose logits are not the output embedding of the last hidden state, to one per cent.

    Where a trainer patches autocast into ``forward``, build and call the engine under the same autocast.
    """
    was_training = model.training
    model.eval()
    try:
        ids = torch.arange(min(8, int(model.config.vocab_size)), device=next(model.parameters()).device)[None]
        with torch.inference_mode():
            whole = model(input_ids=ids).logits.float()
            parts = model.get_output_embeddings()(model.base_model(input_ids=ids).last_hidden_state).float()
    finally:
        model.train(was_training)
    tolerance = 1e-2 * float(parts.nan_to_num().abs().max())
    if not torch.allclose(whole, parts, rtol=1e-2, atol=tolerance, equal_nan=True):
        raise ModelError(
            f"model = {type(model).__name__}: its logits are not the output embedding of the last hidden state; "
            "the tested architectures are Qwen3 and Llama"
        )


def copy_of(model: Any, dtype: torch.dtype) -> Any:
    """A copy of the model for generation in another precision.

    Only weights change precision: rotary frequencies are buffers, and bfloat16 would turn far positions by radians.
    """
    twin = copy.deepcopy(model).eval().requires_grad_(False)
    for weight in twin.parameters():
        weight.grad = None
        weight.data = weight.data.to(dtype)
    return twin
