"""The layers of a Llama or Qwen3 on a flat list of tokens ``[N]``; the caller supplies the attention.

The forward pass of transformers works on padded rectangles. On a CPU with a small model this costs a tenth of a decode
step of 256 rows, and the learner computes each prompt once per sibling. Here linear maps, norms and rotary position act
on tokens, and ``attend`` is called once per layer with its queries, keys and values.

The linear maps are the model's own modules, so adapters and biases stay in force. Legend: ``N`` tokens, ``D`` hidden
size, ``H`` query heads, ``J`` key-value heads, ``K`` head size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import Linear
from torch.nn.functional import scaled_dot_product_attention, silu
from torch.utils.checkpoint import checkpoint

from arrol.engines.embedded.memory import is_shortage
from arrol.engines.embedded.support import attention_kinds
from arrol.engines.embedded.trial import FAILURES

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Layer, queries ``[N, H, K]``, keys and values ``[N, J, K]`` -> attention output ``[N, H, K]``."""

CLASSES = ("LlamaModel", "Qwen3Model")
SAMPLE_TOKENS = 8
NARROW = 16, 128
"""Fewest and most rows of a decode step whose products are taken as weights times columns."""
WIDE = 1024
"""Outputs of one block of the output embedding."""
TOLERANCE = 1e-3
"""Largest difference, as a share of the largest hidden state; float noise is a thousandth of it."""


class FlatDecoder:
    """Built by :func:`flat_decoder`."""

    def __init__(self, base: Any) -> None:
        self._base = base
        self.scaling = float(base.layers[0].self_attn.scaling)
        """Factor of the attention scores."""

    def __call__(
        self, ids_N: torch.Tensor, positions_N: torch.Tensor, attend: Attend, *, recompute: bool = False
    ) -> torch.Tensor:
        """Hidden states ``[N, D]`` after the final norm.

        ``recompute``: layers keep no activations, the backward pass computes them again.
        """
        hidden_ND = self._base.embed_tokens(ids_N)
        if _is_narrow(len(ids_N)):
            hidden_ND = hidden_ND.t().contiguous().t()  # all that follows keeps this layout
        cos, sin = self._base.rotary_emb(hidden_ND[None], positions_N[None])
        turn = cos[0][:, None], sin[0][:, None]
        for number in range(len(self._base.layers)):
            if recompute and torch.is_grad_enabled():
                hidden_ND = checkpoint(
                    self._layer, number, hidden_ND, turn, attend, use_reentrant=False, preserve_rng_state=False
                )
            else:
                hidden_ND = self._layer(number, hidden_ND, turn, attend)
        return _norm(self._base.norm, hidden_ND)

    def _layer(
        self, number: int, hidden_ND: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor], attend: Attend
    ) -> torch.Tensor:
        layer = self._base.layers[number]
        seen_ND = _attention(layer.self_attn, _norm(layer.input_layernorm, hidden_ND), turn, number, attend)
        hidden_ND = hidden_ND + seen_ND
        mlp, inner_ND = layer.mlp, _norm(layer.post_attention_layernorm, hidden_ND)
        gated_NI = silu(product(mlp.gate_proj, inner_ND)) * product(mlp.up_proj, inner_ND)
        return hidden_ND + product(mlp.down_proj, gated_NI)


def flat_decoder(model: Any) -> FlatDecoder | None:
    """None unless the model is a plain Llama or Qwen3 in float32 on a CPU and both forward passes agree.

    Hooks of the embedding are run as in the model: gradient checkpointing, TRL's default, leaves one there.
    """
    base = getattr(model, "base_model", model)
    weights = list(base.parameters())
    plain = (
        type(base).__name__ in CLASSES
        and type(base).__module__.startswith("transformers.")
        and getattr(model.config, "hidden_act", "") == "silu"
        and attention_kinds(model.config) == {"full_attention"}
        and not getattr(base, "gradient_checkpointing", False)
        and not any(_has_hooks(module) for module in base.modules() if module is not base.embed_tokens)
        and not torch.is_autocast_enabled("cpu")
        and all(weight.dtype == torch.float32 and weight.device.type == "cpu" for weight in weights)
    )
    return FlatDecoder(base) if plain and _agrees(base) else None


def product(linear: Any, values_NI: torch.Tensor) -> torch.Tensor:
    """``linear(values)``; weights times columns for few rows, which is up to a fifth faster than rows times weights."""
    return torch.mm(linear.weight, values_NI.t()).t() if _takes_columns(linear, values_NI) else linear(values_NI)


def wide_product(linear: Any, values_NI: torch.Tensor) -> torch.Tensor:
    """``product`` with contiguous rows, for many outputs: in blocks, whose results are in the cache when turned."""
    if not _takes_columns(linear, values_NI):
        return linear(values_NI)
    out_NV = values_NI.new_empty(len(values_NI), len(linear.weight))
    for part_NV, weight_VI in zip(out_NV.split(WIDE, dim=1), linear.weight.split(WIDE), strict=True):
        part_NV.copy_(torch.mm(weight_VI, values_NI.t()).t())
    return out_NV


def _takes_columns(linear: Any, values_NI: torch.Tensor) -> bool:
    is_plain = type(linear) is Linear and linear.bias is None and not _has_hooks(linear)
    return is_plain and _is_narrow(len(values_NI))


def _has_hooks(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _is_narrow(rows: int) -> bool:
    return NARROW[0] <= rows <= NARROW[1] and not torch.is_grad_enabled()


def causal(scaling: float) -> Attend:
    """Attention of one sequence whose tokens are in order."""

    def attend(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
        seen = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
        return seen[0].transpose(0, 1)

    return attend


def _agrees(base: Any) -> bool:
    """The flat forward pass gives the hidden states of the model's own on a short text."""
    was_training = base.training
    base.eval()
    try:
        with torch.inference_mode():
            ids = torch.arange(min(SAMPLE_TOKENS, base.config.vocab_size))
            whole = base(input_ids=ids[None], use_cache=False).last_hidden_state[0]
            flat = FlatDecoder(base)
            ours = flat(ids, torch.arange(len(ids)), causal(flat.scaling))
    except FAILURES as error:
        if is_shortage(error):
            raise
        return False
    finally:
        base.train(was_training)
    most = float(whole.nan_to_num().abs().max())
    return bool(torch.allclose(whole, ours, rtol=0, atol=TOLERANCE * most, equal_nan=True))


def _attention(
    module: Any, hidden_ND: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor], layer: int, attend: Attend
) -> torch.Tensor:
    shape = (len(hidden_ND), -1, module.head_dim)
    query, key, value = (product(p, hidden_ND).reshape(shape) for p in (module.q_proj, module.k_proj, module.v_proj))
    if hasattr(module, "q_norm"):
        query, key = _norm(module.q_norm, query), _norm(module.k_norm, key)
    seen = attend(layer, _turn(query, *turn), _turn(key, *turn), value)
    return product(module.o_proj, seen.reshape(len(hidden_ND), -1))


def _norm(module: Any, values: torch.Tensor) -> torch.Tensor:
    if torch.is_grad_enabled():
        return _RmsNorm.apply(values, module.weight, module.variance_epsilon)
    return _normed(values, module.weight, module.variance_epsilon)[0]  # a third less for a decode step's few rows


def _turn(values: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return _Turn.apply(values, cos, sin) if torch.is_grad_enabled() else _turned(values, cos, sin, 1.0)


def _normed(values: torch.Tensor, weight: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The values normalised and weighted, and one over their root mean square."""
    size = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    scale = size.square_().div_(values.shape[-1]).add_(epsilon).rsqrt_()
    return (values * scale).mul_(weight), scale


class _RmsNorm(torch.autograd.Function):
    """``weight * x / rms(x)`` over the last dimension, with half the memory traffic of separate operations."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        out, scale = _normed(values, weight, epsilon)
        ctx.save_for_backward(values, weight, scale)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        values, weight, scale = ctx.saved_tensors
        unit = values * scale
        product = gradient * unit
        of_weight = product.view(-1, weight.shape[0]).sum(0)
        share = (product @ weight).div_(weight.shape[0])[..., None]
        of_values = (gradient * weight).addcmul_(unit, share, value=-1.0).mul_(scale)
        return of_values, of_weight, None


class _Turn(torch.autograd.Function):
    """Rotary position embedding; the gradient is rotated back."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(values, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return _turned(gradient, cos, sin, -1.0), None, None


def _turned(values: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, sign: float) -> torch.Tensor:
    half = values.shape[-1] // 2
    out = values * cos
    out[..., :half].addcmul_(values[..., half:], sin[..., :half], value=-sign)
    out[..., half:].addcmul_(values[..., :half], sin[..., half:], value=sign)
    return out
