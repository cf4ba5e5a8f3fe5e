"""The least memory that a plan takes, from the model's config and the run's numbers, before weights are read.

A plan that needs more than can be allocated surely fails; it is refused with the field to change. Legend: ``P``
weights, ``A`` weights that learn, ``L`` layers, ``D`` hidden size, ``I`` width of the feed-forward part, ``V``
vocabulary, ``T`` tokens of the longest rollout, ``N`` fewest tokens of an update.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from arrol.configs.lora import ALL_LINEAR, LoraConfig
from arrol.configs.memory import as_gib, host_most_bytes
from arrol.engines.embedded.memory import free_bytes
from arrol.engines.embedded.support import max_positions
from arrol.errors import ConfigError
from arrol.training.model_shapes import FLOAT_BYTES, Shape
from arrol.training.policy import LOGIT_CHUNK

COMPLETION_BYTES = 400
"""Python objects of one completion with a single token; 428 measured."""
MOMENTS = 2 * FLOAT_BYTES
"""Bytes of AdamW's two moments of a weight."""
HYBRID = ("mamba", "block_type", "attn_layer")
"""Parts of fields in configs whose layers keep no keys and values in part."""


class Plan(NamedTuple):
    """Numbers of a command."""

    trained: int = 0
    """Weights that learn, or whose gradient is taken."""
    held: int = 0
    """Bytes beside each of them all the time, such as moments from an earlier step."""
    at_update: int = 0
    """Bytes beside each of them when the gradient is whole."""
    copies: int = 0
    """Bytes of a second copy of every weight, for generation or as a reference."""
    row_tokens: int = 0
    """Longest rollout, prompt included."""
    row_bytes: int = FLOAT_BYTES
    """Bytes of a number among the keys and values."""
    update_tokens: int = 0
    """Fewest tokens of a forward and backward pass."""
    predicted_tokens: int = 0
    """Tokens among them that meet the output embedding."""
    update_bytes: int = FLOAT_BYTES
    """Bytes of an activation: 2 under autocast to bfloat16."""
    recomputes: bool = False
    """Activations within layers are computed again."""
    results: int = 0
    """Bytes of what is kept of all rollouts at once."""


def footprint(config: Any, num_weights: int, plan: Plan) -> list[dict[str, int]]:
    """Bytes that the parts of a plan take at least, in each phase of it; the largest sum is what the plan needs.

    ``config``: a Hugging Face config. With the fields of ``plan``::

        always      model    = 4 P + held A,  copies = copies P
        generation  results,  row = row_bytes T 2 (full-attention layers) (key-value heads) (head size) + 4 V
        gradient    update = update_bytes N L (D + I),  logits = 8 min(predicted_tokens V, LOGIT_CHUNK)
        optimizer   model = 4 P + at_update A

    A rollout counts at its length limit, and a run that trains with one update at least: one whose groups are all dead
    needs less and learns nothing. One rollout lives at a time. Left out, so that no plan
    is refused that would fit: the program itself, further rows and rollouts, prompts, attention scores and most other
    activations, spare room of caches, temporaries of the optimizer, the quality head and its buffer, copies while
    weights are read.
    """
    text = config.get_text_config()
    hidden = int(getattr(text, "hidden_size", 0) or 0)
    layers, vocabulary = int(getattr(text, "num_hidden_layers", 0) or 0), int(getattr(text, "vocab_size", 0) or 0)
    has_experts = any("expert" in name for name in text.to_dict())
    width = hidden + (0 if has_experts else int(getattr(text, "intermediate_size", 0) or 0))
    if plan.recomputes:
        width = hidden
    always = {"model": FLOAT_BYTES * num_weights + plan.held * plan.trained}
    always["copies"] = plan.copies * num_weights
    logits = min(plan.predicted_tokens * vocabulary, LOGIT_CHUNK)
    row = plan.row_bytes * plan.row_tokens * _kept_numbers(text) + FLOAT_BYTES * vocabulary
    return [
        always | {"row": row, "results": plan.results},
        always
        | {"update": plan.update_bytes * plan.update_tokens * layers * width, "logits": 2 * FLOAT_BYTES * logits},
        always | {"model": always["model"] + (plan.at_update - plan.held) * plan.trained},
    ]


def _kept_numbers(text: Any) -> int:
    """Keys and values of a token in the layers that certainly keep every token."""
    layers, heads = int(getattr(text, "num_hidden_layers", 0) or 0), getattr(text, "num_attention_heads", None)
    if not heads:
        return 0
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        is_plain = getattr(text, "sliding_window", None) is None and not any(
            word in name for name in text.to_dict() for word in HYBRID
        )
        kinds = ["full_attention"] * layers if is_plain else []
    full = max(0, list(kinds).count("full_attention") - int(getattr(text, "num_kv_shared_layers", 0) or 0))
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    return 2 * full * int(getattr(text, "num_key_value_heads", None) or heads) * int(size)


def adapter_weights(shapes: Mapping[str, Shape], lora: LoraConfig, config: Any) -> int:
    """Weights of the adapters beside the matrices of a model, given by name -> shape."""
    text, found = config.get_text_config(), 0
    tables = (getattr(text, "vocab_size", None), getattr(text, "max_position_embeddings", None))
    for name, shape in shapes.items():
        layer = name.removesuffix(".weight")
        chosen = lora.target_modules == (ALL_LINEAR,) and shape[0] not in tables
        if len(shape) == 2 and (chosen or layer.rpartition(".")[2] in lora.target_modules):
            found += lora.r * sum(shape)
    return found


def longest_row(config: Any, max_completion_tokens: int) -> int:
    """Tokens of the longest rollout of a prompt of one token; a longer one than the model's positions is refused
    elsewhere."""
    return min(1 + max_completion_tokens, max_positions(config.get_text_config()) or 1 + max_completion_tokens)


class Cause(NamedTuple):
    """The field behind a part of a plan."""

    field: str
    value: str | int | float
    what: str
    """What takes the memory, in the plural."""
    remedy: str = ""
    """What to do; where the field scales, beside lowering it."""
    scales: bool = False
    """Half the value takes half the memory."""
    on_host: bool = False
    """It lies in the host's memory whatever the device."""


def require_room(
    phases: list[dict[str, int]], causes: Mapping[str, Cause], device: torch.device, *, room: int | None = None
) -> None:
    """ConfigError where a phase takes more than can be allocated; it names the cause of the largest part.

    ``room``: bytes, in place of what this machine has.
    """
    hosted = {name for name, cause in causes.items() if cause.on_host or device.type == "cpu"}
    for on_host in (True, False):
        parts = [{name: size for name, size in each.items() if (name in hosted) is on_host} for each in phases]
        phase = max(parts, key=lambda each: sum(each.values()))
        needed, most = sum(phase.values()), room
        if most is None:
            most = host_most_bytes() if on_host else free_bytes(device)
        if needed > most:
            raise _too_large(phase, needed, most, causes)


def _too_large(phase: dict[str, int], needed: int, room: int, causes: Mapping[str, Cause]) -> ConfigError:
    name = max(phase, key=lambda each: phase[each])
    cause, remedy = causes[name], causes[name].remedy
    if cause.scales:
        fitting = int(cause.value) * max(0, room - needed + phase[name]) // phase[name]
        remedy = f"lower it to {fitting} at most{remedy}" if fitting else f"lower it{remedy}"
    return ConfigError(
        f"{cause.field} = {cause.value!r}: {cause.what} take {as_gib(phase[name])} or more, the plan as a whole "
        f"{as_gib(needed)}, and {as_gib(room)} can be allocated; {remedy}"
    )
