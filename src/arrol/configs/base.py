"""Strict configuration: TOML in, frozen objects out, one line for every mistake.

* An unknown key is an error that names the nearest known one.
* The docstring under a field is its only documentation; error messages quote it.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from arrol.errors import ConfigError

RENAMED = {"estimator": "correction"}
"""Key of an older release -> its name now, for the error message."""

MAX_SHOWN = 80
"""Characters of a wrong value in an error message."""


class StrictModel(BaseModel):
    """A frozen config node that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


Config = TypeVar("Config", bound=StrictModel)


def read_toml(path: str | Path) -> dict[str, Any]:
    """The file as a dict; ConfigError when it is absent or not TOML."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(
            f"config = {str(path)!r}: no such file; give the path of a TOML file, for example one in configs/"
        )
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config = {str(path)!r}: not valid TOML ({error}); mend that line") from None


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it; tables merge, everything else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def validate(model: type[Config], values: Mapping[str, Any]) -> Config:
    """The config, or one ConfigError line for the first mistake."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(model, error.errors()[0])) from None


def models(annotation: Any) -> list[type[StrictModel]]:
    """Config nodes that a field's type holds: none, one, or the variants of a section."""
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in models(part)]


def variants(info: FieldInfo) -> dict[str, type[StrictModel]]:
    """Tag -> node of a section with variants; empty for any other field."""
    tag = info.discriminator
    return {node.model_fields[tag].default: node for node in models(info.annotation)} if isinstance(tag, str) else {}


def nearest_key(key: str, known: Iterable[str]) -> str:
    """The known key of most similar spelling; the new name of a renamed one."""
    names = sorted(known)
    renamed = RENAMED.get(key)
    return renamed if renamed in names else difflib.get_close_matches(key, names, n=1, cutoff=0.0)[0]


def shown(value: object) -> str:
    """The value as an error message quotes it, at most ``MAX_SHOWN`` characters long."""
    if isinstance(value, int) and value.bit_length() > 4 * MAX_SHOWN:  # Python refuses to print very long numbers
        return f"{'-' if value < 0 else ''}2**{value.bit_length() - 1}..."
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _explain(model: type[StrictModel], error: ErrorDetails) -> str:
    location = [part for part in error["loc"] if not isinstance(part, int)]
    node, path = _walk(model, [str(part) for part in location])
    field = ".".join(path) or "config"
    kind, value, context = error["type"], error.get("input"), error.get("ctx", {})
    info = node.model_fields.get(path[-1]) if path else None
    expected = " ".join((info.description or "").split()) if info else ""
    remedy = f"expected: {expected}" if expected else "see the comments in configs/"
    if kind == "extra_forbidden":
        key = nearest_key(str(location[-1]), node.model_fields)
        return f"{field} = {shown(value)}: unknown key; the nearest known one is {key!r}"
    if kind == "missing":
        return f"{field}: missing; {remedy}"
    if kind in ("union_tag_not_found", "union_tag_invalid") and info:
        known = ", ".join(map(repr, variants(info)))
        if kind == "union_tag_not_found":
            return f"{field}.{info.discriminator}: missing; choose one of {known}"
        tag = context.get("tag")
        near = nearest_key(str(tag), variants(info))
        return f"{field}.{info.discriminator} = {shown(tag)}: unknown; the nearest of {known} is {near!r}"
    message = error["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return message if "=" in message.split(":")[0] else f"{field} = {shown(value)}: {message}"
    return f"{field} = {shown(value)}: {message[0].lower()}{message[1:]}; {remedy}"


def _walk(model: type[StrictModel], location: list[str]) -> tuple[type[StrictModel], list[str]]:
    """The node that owns the last key of an error's location, and the path to it without the tags of variants."""
    node, path, candidates = model, [], [model]
    for part in location:
        owners = [c for c in candidates if part in c.model_fields]
        if not owners:
            tagged = [c for c in candidates if part in _tags(c)]
            if tagged:
                node, candidates = tagged[0], tagged
                continue
            path.append(part)
            node = candidates[0] if candidates else node
            break
        node = owners[0]
        path.append(part)
        nested = models(node.model_fields[part].annotation)
        if nested and part != location[-1]:
            candidates, node = nested, nested[0]
        elif nested:
            candidates = nested
    return node, path


def _tags(model: type[StrictModel]) -> set[str]:
    return {str(value) for info in model.model_fields.values() for value in get_args(info.annotation)}
