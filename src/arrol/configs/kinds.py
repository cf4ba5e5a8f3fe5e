"""Values of a field before pydantic reads them: one entry is a list of one, and true is no number.

>>> as_kind(tuple[int, ...], 16)
[16]
>>> as_kind(tuple[str, ...], "tensorboard, wandb")
['tensorboard', 'wandb']
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel

WORDS = {int: "a number", float: "a number", str: "a text"}
MAX_BITS = 63
"""Bits of a whole number: what JSON readers and random generators take."""


def as_kind(annotation: Any, value: Any) -> Any:
    """``value`` for a field of that type; ValueError for true or false where the field is a number or a text, for
    anything else where it is true or false, and for whole numbers of more than ``MAX_BITS`` bits."""
    entry = list_entry(annotation)
    if entry is not None and not models(entry):
        if isinstance(value, str) and str in scalar_kinds(entry):
            value = [part.strip() for part in value.strip("[] ").split(",") if part.strip()]
        elif isinstance(value, bool | int | float):
            value = [value]
        if isinstance(value, list | tuple):
            return [as_kind(entry, each) for each in value]
    if isinstance(value, Mapping):
        for each in value.values() if get_origin(annotation) is dict else ():
            as_kind(get_args(annotation)[1], each)
        return value
    kinds = scalar_kinds(annotation)
    if not kinds:
        return value
    if kinds == [bool] and not isinstance(value, bool) and value is not None:
        raise ValueError("must be true or false")
    if isinstance(value, bool) and bool not in kinds:
        raise ValueError(f"must be {WORDS[kinds[0]]}, not true or false")
    if (isinstance(value, int) and value.bit_length() > MAX_BITS) or (kinds == [int] and _is_beyond(value)):
        raise ValueError(f"needs more than {MAX_BITS} bits")
    return value


def _is_beyond(value: Any) -> bool:
    """A number such as 1e30, which is too large to be a whole one."""
    return isinstance(value, float) and math.isfinite(value) and abs(value) >= 2**MAX_BITS


def list_entry(annotation: Any) -> Any:
    """Type of the entries of a ``tuple[X, ...]``; None for another type."""
    return get_args(annotation)[0] if get_origin(annotation) is tuple else None


def scalar_kinds(annotation: Any) -> list[type]:
    """Which of bool, int, float and str a field takes, in the order in which the type names them; empty where it also
    takes something else."""
    if annotation in (bool, int, float, str):
        return [annotation]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return scalar_kinds(parts[0])
    if origin is Literal:
        return list(dict.fromkeys(type(part) for part in parts))
    if annotation is type(None):
        return []
    found: list[type] = []
    for part in parts if origin not in (tuple, dict, list) else ():
        kinds = scalar_kinds(part)
        if not kinds and part is not type(None):
            return []
        found += kinds
    return list(dict.fromkeys(found))


def models(annotation: Any) -> list[Any]:
    """Config nodes that a field's type holds: none, one, or the variants of a section."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in models(part)]
