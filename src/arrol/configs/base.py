"""Strict configuration: TOML in, frozen objects out, one line for every mistake.

* An unknown key is an error that names the nearest known one of any section.
* A single value is a list of one; true is no number (``kinds.py``).
* The docstring under a field is its only documentation; error messages quote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from arrol.configs.kinds import as_kind, list_entry, models
from arrol.configs.suggestions import Shapes, meant, nearest_key
from arrol.configs.wording import need
from arrol.errors import ConfigError

MAX_SHOWN = 80
"""Characters of a wrong value in an error message."""
WRONG_KIND: Literal["wrong_kind"] = "wrong_kind"
"""Type of the errors of :func:`~arrol.configs.kinds.as_kind`."""


class StrictModel(BaseModel):
    """A frozen config node that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    is_written: ClassVar[bool] = True
    """A file or a flag may name this variant of a section."""

    @model_validator(mode="before")
    @classmethod
    def _of_kind(cls, values: Any) -> Any:
        """Each value as its field takes it; the error carries field and value, since its place is the whole node."""
        if not isinstance(values, Mapping):
            return values
        found = dict(values)
        for name, info in cls.model_fields.items():
            if name in found:
                try:
                    found[name] = as_kind(info.annotation, found[name])
                except ValueError as error:
                    context = {"field": name, "value": found[name], "reason": str(error)}
                    raise PydanticCustomError(WRONG_KIND, "{reason}", context) from None
        return found


Config = TypeVar("Config", bound=StrictModel)


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it; tables merge, everything else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def validate(model: type[Config], values: Mapping[str, Any], shapes: Shapes | None = None) -> Config:
    """The config, or one ConfigError line for the first mistake; ``shapes`` are those of its fields of type dict."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(model, error.errors()[0], shapes or {})) from None


def variants(info: FieldInfo) -> dict[str, type[StrictModel]]:
    """Tag -> node of a section with variants, as far as files may name them; empty for any other field."""
    tag, nodes = info.discriminator, models(info.annotation)
    return {node.model_fields[tag].default: node for node in nodes if node.is_written} if isinstance(tag, str) else {}


def shown(value: object) -> str:
    """The value as an error message quotes it, at most ``MAX_SHOWN`` characters long."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > 4 * MAX_SHOWN:  # Python refuses to print very long numbers
        return f"{'-' if value < 0 else ''}2**{value.bit_length() - 1}..."
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _explain(model: type[StrictModel], error: ErrorDetails, shapes: Shapes) -> str:
    kind, value, context = error["type"], error.get("input"), error.get("ctx", {})
    location = [part for part in error["loc"] if isinstance(part, str) and "[" not in part]  # no branch of a union
    if kind == WRONG_KIND:
        location, value = [*location, context["field"]], context["value"]
    node, path = _walk(model, location)
    field = ".".join(path) or "config"
    info = node.model_fields.get(path[-1]) if path else None
    expected = " ".join((info.description or "").split()) if info else ""
    remedy = f"expected: {expected}" if expected else "see the comments in configs/"
    if kind == "extra_forbidden":
        while isinstance(value, Mapping) and len(value) == 1:
            ((part, value),) = value.items()
            field = f"{field}.{part}"
        return f"{field} = {shown(value)}: unknown key; {meant(model, field, shapes, node)}"
    if kind == "missing":
        return f"{field}: missing; {remedy}"
    if kind in ("union_tag_not_found", "union_tag_invalid") and info:
        known = ", ".join(map(repr, variants(info)))
        if kind == "union_tag_not_found":
            return f"{field}.{info.discriminator}: missing; choose one of {known}"
        tag = context.get("tag")
        near = nearest_key(str(tag), variants(info))
        return f"{field}.{info.discriminator} = {shown(tag)}: unknown; the nearest of {known} is {near!r}"
    if kind == "model_type" and info and not list_entry(info.annotation) and (nodes := models(info.annotation)):
        first = next(iter(nodes[0].model_fields))
        return f"{field} = {shown(value)}: is a section; give a field of it, such as {field}.{first}"
    message = error["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return message if "=" in message.split(":")[0] else f"{field} = {shown(value)}: {message}"
    return f"{field} = {shown(value)}: {need(kind, context, message)}; {remedy}"


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
