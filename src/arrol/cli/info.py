"""``arrol info``: what runs here, or what a config resolves to."""

from __future__ import annotations

import json
from typing import Any

from arrol.configs.base import read_toml
from arrol.configs.run import load_compare, load_run
from arrol.configs.sft import load_sft
from arrol.records.store import provenance


def run_info(path: str | None, *, as_json: bool) -> int:
    """Without a config: versions, commit, device. With one: every field, defaults included."""
    if path is None:
        here = provenance(["arrol", "info"])
        facts: dict[str, Any] = {"commit": here.commit, "dirty": here.dirty, "device": here.device, **here.versions}
    else:
        facts = _resolve(path)
    if as_json:
        print(json.dumps(facts, indent=1))
    else:
        for name, value in _flat(facts):
            print(f"{name} = {value}")
    return 0


def _resolve(path: str) -> dict[str, Any]:
    """The kind of config is told by its tables: arms, shape or mixture, else a run."""
    values = read_toml(path)
    if "arms" in values:
        return load_compare(path).model_dump(mode="json")
    if {"shape", "mixture", "steps", "demonstrations"} & set(values):
        return load_sft(path).model_dump(mode="json")
    return load_run(path).model_dump(mode="json")


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in tree.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return rows
