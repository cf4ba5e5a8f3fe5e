"""Which models the embedded engine runs, and with which cache; others are refused before the first token.

The engine calls the base model and the output embedding itself. With its own cache (:class:`RowCache`) it also passes
its own attention mask; models that need another one keep their own cache (:class:`OwnCache`).
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from arrol.engines.embedded import own_cache
from arrol.engines.embedded.memory import is_shortage
from arrol.engines.embedded.trial import FAILURES
from arrol.errors import ConfigError, ModelError

ATTENTION = ("sdpa", "eager")
"""Implementations that take a mask from outside."""
OTHERWISE = "generate with vLLM (TRL: use_vllm = True)"


def keeps_every_key(model: Any) -> bool:
    """Full attention in all layers, with a mask from outside: rows may have lengths of their own."""
    config = model.config.get_text_config()
    return (
        attention_kinds(config) == {"full_attention"}
        and getattr(config, "num_key_value_heads", None) is not None
        and getattr(config, "attn_logit_softcapping", None) is None
        and getattr(config, "_attn_implementation", "sdpa") in ATTENTION
    )


def require_own_cache(model: Any) -> None:
    """ModelError unless the model gives the same hidden states with its own cache as without."""
    if not own_cache.agrees(model):
        raise ModelError(
            f"model = {type(model).__name__}: left-padded rows in its own cache differ from a pass without cache; "
            f"{OTHERWISE}"
        )


def logits_of(model: Any, hidden_ND: torch.Tensor) -> torch.Tensor:
    """Logits ``[N, V]``: output embedding, then the factor and the soft cap that some families add."""
    config, logits_NV = model.config.get_text_config(), model.get_output_embeddings()(hidden_ND)
    factor = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    logits_NV = logits_NV if factor == 1 else logits_NV * factor
    cap = getattr(config, "final_logit_softcapping", None)
    return logits_NV if cap is None else torch.tanh(logits_NV / cap) * cap


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


def too_long(field: str, most: int, length: int, limit: int) -> ConfigError:
    """The error for a prompt of ``length`` tokens whose completions of ``most`` tokens exceed the model's positions."""
    return ConfigError(
        f"{field} = {most}: with a prompt of {length} tokens it exceeds the {limit} positions of the model "
        f"(max_position_embeddings); lower it to {max(limit - length, 0)}"
    )


def require_plain_head(model: Any) -> None:
    """ModelError for a model whose logits are not :func:`logits_of` the last hidden state, to one per cent.

    Where a trainer patches autocast into ``forward``, build and call the engine under the same autocast.
    """
    name, was_training = type(model).__name__, model.training
    model.eval()
    try:
        whole, parts = _whole_and_parts(model)
    except FAILURES as error:
        if is_shortage(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"model = {name}: its forward pass failed on a short text ({reason}); {OTHERWISE}") from None
    finally:
        model.train(was_training)
    if not whole.isfinite().any():
        raise ModelError(
            f"model = {name}: none of its logits is a finite number, so its weights or its config.json are damaged; "
            "copy or save the model again"
        )
    if not _are_close(whole, parts):
        raise ModelError(
            f"model = {name}: its logits are not the output embedding of the last hidden state; {OTHERWISE}"
        )


def _whole_and_parts(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a short text, by the model and by :func:`logits_of`."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    ids = torch.arange(min(8, vocabulary), device=next(model.parameters()).device)[None]
    with torch.inference_mode():
        whole = model(input_ids=ids).logits.float()
        return whole, logits_of(model, model.base_model(input_ids=ids).last_hidden_state).float()


def _are_close(whole: torch.Tensor, parts: torch.Tensor) -> bool:
    tolerance = 1e-2 * float(parts.nan_to_num().abs().max())
    return bool(torch.allclose(whole, parts, rtol=1e-2, atol=tolerance, equal_nan=True))


def copy_of(model: Any, dtype: torch.dtype) -> Any:
    """A copy of the model for generation in another precision.

    Only weights change precision: rotary frequencies are buffers, and bfloat16 would turn far positions by radians.
    """
    twin = copy.deepcopy(model).eval().requires_grad_(False)
    for weight in twin.parameters():
        weight.grad = None
        weight.data = weight.data.to(dtype)
    return twin
