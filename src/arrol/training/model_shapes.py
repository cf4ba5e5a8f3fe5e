"""What a model's config.json asks for beside what its weights hold, before the weights are read.

Only headers of safetensors files are read, and the model is laid out without memory, so a config that asks for too much
costs nothing. Weights that a config asks for and the files lack would otherwise be random numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from arrol.configs.memory import as_gib, host_free_bytes
from arrol.errors import ModelError
from arrol.training.model_files import MEND, Shape, held_shapes

FLOAT_BYTES = 4
"""Weights are loaded in float32."""


def matching_shapes(folder: Path | None, config: Any, field: str) -> dict[str, Shape]:
    """What :func:`wanted_shapes` returns; ModelError, which begins with ``field``, where the config asks for other or
    more weights than the files hold, if there is a folder that tells without reading weights."""
    held, wanted = held_shapes(folder) if folder else {}, wanted_shapes(config)
    if not held:
        return wanted
    for name, shape in wanted.items():
        if held.get(name, shape) != shape:
            raise ModelError(
                f"{field}: config.json asks for {name} of {_shown(shape)}{_named(config, shape, held[name])}, the "
                f"weights have {_shown(held[name])}; {_size(wanted)}; {MEND}"
            )
    if _count(wanted) > _count(held):
        lacks = [name for name in wanted if name not in held]
        raise ModelError(f"{field}: config.json asks for {lacking(lacks)}; {_size(wanted)}; {MEND}")
    return wanted


def wanted_shapes(config: Any) -> dict[str, Shape]:
    """Name -> shape of the parameters of the causal language model of that config, tied ones once."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


def weights_in_words(count: int) -> str:
    """One or several weights."""
    return f"{count} weight{'s' * (count != 1)}"


def lacking(names: Sequence[str]) -> str:
    """The weights that were asked for in vain."""
    return f"{weights_in_words(len(names))} that the files lack, such as {names[0]}"


def _count(shapes: Mapping[str, Shape]) -> int:
    return sum(map(prod, shapes.values()))


def _shown(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _size(wanted: Mapping[str, Shape]) -> str:
    needed = as_gib(FLOAT_BYTES * _count(wanted))
    return f"such a model takes {needed}, and {as_gib(host_free_bytes())} are free"


def _named(config: Any, wanted: Shape, held: Shape) -> str:
    """Fields of the config whose value is a length that differs, in brackets."""
    wrong = [length for length, other in zip(wanted, held, strict=False) if length != other]
    fields = config.get_text_config().to_dict().items()
    named = [f"{key} = {value}" for key, value in fields if type(value) is int and value in wrong]
    return f" ({', '.join(named[:2])})" if named else ""
