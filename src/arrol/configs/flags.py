"""Command-line flags over a config file: ``--section.field VALUE``, read by the type of the field.

* Hyphens in a key are underscores: ``--out-dir x`` sets ``out_dir``.
* A text field takes the value as typed. Numbers, booleans, lists and tables are TOML; a list may also be ``a,b``.
  ``none`` empties an optional field.
* ``--task countdown`` is short for ``--task.name countdown``. Values of the file that the new variant does not have, or
  does not allow, are left out, with one warning.
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import ValidationError

from arrol.configs.base import StrictModel, merge, variants
from arrol.configs.kinds import list_entry, models, scalar_kinds
from arrol.configs.suggestions import known_paths, meant
from arrol.errors import ConfigError

Shapes = Mapping[str, type[StrictModel]]
"""Field of type ``dict`` -> the config that it has the shape of."""
logger = logging.getLogger(__name__)


def override(
    model: type[StrictModel], values: Mapping[str, Any], flags: Sequence[str], shapes: Shapes | None = None
) -> dict[str, Any]:
    """Raw values of a config under flags; one warning names the values that the flags left out."""
    merged, left_out = change(model, values, parse_flags(flags, model, shapes), shapes)
    if left_out:
        logger.warning("arrol: another variant was named, left out of the config: %s", ", ".join(left_out))
    return merged


def change(
    model: type[StrictModel], values: Mapping[str, Any], changes: Mapping[str, Any], shapes: Shapes | None = None
) -> tuple[dict[str, Any], list[str]]:
    """``values`` with ``changes`` laid over, and what was left out: a section that becomes another variant keeps the
    values that the new one has and allows. Fields of an absent section are those of its default variant."""
    merged, left_out = merge(values, changes), []
    for name, info in model.model_fields.items():
        old, new = values.get(name), changes.get(name)
        known, tag = variants(info), str(info.discriminator)
        if known and old is None and isinstance(new, Mapping) and isinstance(info.default, StrictModel):
            merged[name] = {tag: getattr(info.default, tag), **new}
        if not isinstance(old, Mapping) or not isinstance(new, Mapping):
            continue
        if name in (shapes or {}):
            merged[name], inner = change((shapes or {})[name], old, new)
            left_out += [f"{name}.{text}" for text in inner]
        chosen = known.get(str(new.get(tag)))
        if chosen is not None and old.get(tag) != new.get(tag):
            foreign = {field for variant in known.values() for field in variant.model_fields}
            foreign -= chosen.model_fields.keys()
            foreign |= _refused(chosen, {key: value for key, value in old.items() if key not in foreign | {tag}})
            foreign -= new.keys()
            merged[name] = merge({key: value for key, value in old.items() if key not in foreign}, new)
            left_out += [f"{name}.{key} = {value!r}" for key, value in old.items() if key in foreign]
    return merged, left_out


def _refused(variant: type[StrictModel], values: Mapping[str, Any]) -> set[str]:
    """Known fields whose value is outside what the variant allows, each judged by itself."""
    try:
        variant.model_validate(values)
    except ValidationError as error:
        places = [problem["loc"] for problem in error.errors() if problem["type"] != "extra_forbidden"]
        return {str(place[0]) for place in places if place and place[0] in values}
    return set()


def parse_flags(flags: Sequence[str], model: type[StrictModel], shapes: Shapes | None = None) -> dict[str, Any]:
    """``["--training.steps", "1", "--name=x"]`` to ``{"training": {"steps": 1}, "name": "x"}``; an unknown key is kept
    for :func:`arrol.configs.base.validate` to refuse."""
    tree: dict[str, Any] = {}
    pending = list(flags)
    while pending:
        flag = pending.pop(0)
        if not flag.startswith("--") or len(flag) < 3:
            raise ConfigError(f"flag = {flag!r}: not understood; write --section.field VALUE")
        key, equals, text = flag[2:].partition("=")
        if not equals:
            if not pending or pending[0].startswith("--"):
                raise ConfigError(_without_value(flag, model, shapes or {}))
            text = pending.pop(0)
        (*path, leaf), kind = _field(key, text, model, shapes or {})
        node = tree
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ConfigError(
                    f"flag = {flag!r}: {part} was given a value before; give either the section or its fields"
                )
        if leaf in node:
            raise ConfigError(f"flag = {flag!r}: {'.'.join([*path, leaf])} was given before; give it once")
        node[leaf] = read_value(text, kind)
    return tree


def _without_value(flag: str, model: type[StrictModel], shapes: Shapes) -> str:
    """The message for a flag whose value is missing, or whose key no config has."""
    path, kind = _field(flag[2:], "", model, shapes)
    key = ".".join(path)
    if key not in known_paths(model, shapes):
        return f"{key}: unknown key; {meant(model, key, shapes)}"
    kinds = scalar_kinds(list_entry(kind) or kind)
    value = "true or false" if kinds == [bool] else "TEXT" if kinds == [str] else "NUMBER" if kinds else "VALUE"
    return f"flag = {flag!r}: has no value; write {flag} {value}"


def read_value(text: str, kind: Any) -> Any:
    """The text as a value of a field's type; the text itself where it is none, so that the refusal shows it."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return read_value(text, parts[0])
    if NoneType in parts:
        return None if text in ("none", "None") else read_value(text, next(p for p in parts if p is not NoneType))
    if kind is str:
        return text
    if origin is Literal:
        return next((choice for choice in parts if str(choice) == text), text)
    value = _toml(text.lower() if kind is bool else text)
    if kind is bool:
        return value if isinstance(value, bool) else text
    if kind in (int, float):
        return value if isinstance(value, bool | int | float) else text
    if origin is tuple and not isinstance(value, list) and not models(parts[0]):
        items = (item.strip() for item in text.strip("[] ").split(","))
        return [read_value(item, parts[0]) for item in items if item]
    return value if isinstance(value, (bool, int, float, str, list, dict)) else text


def _toml(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _field(key: str, text: str, model: type[StrictModel], shapes: Shapes) -> tuple[list[str], Any]:
    """Path of a key, down to the tag where ``text`` names a variant, and the type found there; Any when unknown."""
    candidates, path, info = [model], list[str](), None
    kind: Any = Any
    for part in key.split("."):
        name = part.replace("-", "_")
        found = [owner.model_fields[name] for owner in candidates if name in owner.model_fields]
        info = found[0] if found else None
        if info is not None:
            kind = info.annotation
            nested = [node for same in found for node in models(same.annotation)]
            candidates = [shapes[name]] if name in shapes and not path else nested
        elif get_origin(kind) is dict and not candidates:
            name, kind = part, get_args(kind)[1]
        else:
            candidates, kind = [], Any
        path.append(name)
    if info is not None and info.discriminator and not isinstance(_toml(text), dict):
        return [*path, str(info.discriminator)], str
    return path, kind
