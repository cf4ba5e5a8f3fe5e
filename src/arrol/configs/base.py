"""Strict configuration: TOML in, frozen objects out, one line for every mistake.

* An unknown key is an error that names the nearest known one.
* Flags override the file: ``--training.steps 5`` is the same as ``steps = 5`` under ``[training]``.
* The docstring under a field is its only documentation; error messages quote it.

No torch here, so a config can be checked on any machine in a blink.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from arrol.errors import ConfigError

RENAMED = {"estimator": "correction"}
"""Key of an older release -> its name now, for the error message."""


class StrictModel(BaseModel):
    """A frozen config node that refuses unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, coerce_numbers_to_str=True
    )


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


def parse_flags(flags: Sequence[str], tags: Mapping[str, str] | None = None) -> dict[str, Any]:
    """``["--a.b", "1", "--c=x"]`` to ``{"a": {"b": 1}, "c": "x"}``; values are TOML, else plain strings.

    ``tags`` are sections of which there are variants: with ``{"c": "name"}``, ``--c x`` is short for ``--c.name x``.
    """
    tree: dict[str, Any] = {}
    pending = list(flags)
    while pending:
        flag = pending.pop(0)
        if not flag.startswith("--") or len(flag) < 3:
            raise ConfigError(f"flag = {flag!r}: not understood; write --section.field VALUE")
        key, equals, value = flag[2:].partition("=")
        if not equals:
            if not pending or pending[0].startswith("--"):
                raise ConfigError(f"flag = {flag!r}: has no value; write {flag} VALUE")
            value = pending.pop(0)
        if key in (tags or {}):
            key = f"{key}.{(tags or {})[key]}"
        node = tree
        *path, leaf = key.split(".")
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ConfigError(
                    f"flag = {flag!r}: {part} was given a value before; give either the section or its fields"
                )
        if leaf in node:
            raise ConfigError(f"flag = {flag!r}: {key} was given before; give it once")
        node[leaf] = _toml_value(value)
    return tree


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


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


def nearest_key(key: str, known: Iterable[str]) -> str:
    """The known key of most similar spelling; the new name of a renamed one."""
    names = sorted(known)
    renamed = RENAMED.get(key)
    return renamed if renamed in names else difflib.get_close_matches(key, names, n=1, cutoff=0.0)[0]


def _explain(model: type[StrictModel], error: ErrorDetails) -> str:
    location = [part for part in error["loc"] if not isinstance(part, int)]
    node, path = _walk(model, [str(part) for part in location])
    field = ".".join(path) or "config"
    kind, value = error["type"], error.get("input")
    if kind == "extra_forbidden":
        key = nearest_key(str(location[-1]), node.model_fields)
        return f"{field} = {value!r}: unknown key; the nearest known one is {key!r}"
    if kind == "missing":
        return f"{field}: missing; {_describe(node, path)}"
    context = error.get("ctx", {})
    if kind == "union_tag_not_found":
        tag = str(context.get("discriminator", "")).strip("'")
        return f"{field}.{tag}: missing; choose one of {', '.join(_variants(node, path[-1], tag))}"
    if kind == "union_tag_invalid":
        near = difflib.get_close_matches(
            str(context.get("tag")), _words(str(context.get("expected_tags"))), n=1, cutoff=0.0
        )
        tag, known = str(context.get("discriminator", "")).strip("'"), context.get("expected_tags")
        return f"{field}.{tag} = {context.get('tag')!r}: unknown; the nearest of {known} is {near[0]!r}"
    message = error["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return message if "=" in message.split(":")[0] else f"{field} = {value!r}: {message}"
    return f"{field} = {value!r}: {message[0].lower()}{message[1:]}; {_describe(node, path)}"


def _variants(node: type[StrictModel], field: str, tag: str) -> list[str]:
    """Tags of the union that stands under a field."""
    candidates = _models(node.model_fields[field].annotation) if field in node.model_fields else []
    return [repr(model.model_fields[tag].default) for model in candidates if tag in model.model_fields]


def _words(text: str) -> list[str]:
    return [word.strip(" '\"") for word in text.split(",")]


def _describe(node: type[StrictModel], path: list[str]) -> str:
    info = node.model_fields.get(path[-1]) if path else None
    text = " ".join((info.description or "").split()) if info else ""
    return f"expected: {text}" if text else "see the comments in configs/"


def _walk(model: type[StrictModel], location: list[str]) -> tuple[type[StrictModel], list[str]]:
    """Follow an error's location to the node that owns its last key; tags of unions are not part of the path."""
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
        nested = _models(node.model_fields[part].annotation)
        if nested and part != location[-1]:
            candidates, node = nested, nested[0]
        elif nested:
            candidates = nested
    return node, path


def _tags(model: type[StrictModel]) -> set[str]:
    return {str(value) for info in model.model_fields.values() for value in get_args(info.annotation)}


def _models(annotation: Any) -> list[type[StrictModel]]:
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models(part)]
