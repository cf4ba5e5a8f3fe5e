"""``arrol info``: versions and device, or a resolved config."""

from __future__ import annotations

import json
from typing import Any

from arrol.cli.tables import print_json
from arrol.configs.base import StrictModel, read_toml
from arrol.configs.run import RunConfig, load_compare, load_run
from arrol.configs.sft import SftConfig, load_sft
from arrol.integrations.versions import host_versions
from arrol.records.store import provenance


def run_info(path: str | None, *, as_json: bool) -> int:
    """Print versions, commit and device; or, of a config, every field with its meaning."""
    config = None if path is None else _resolve(path)
    if as_json:
        print_json(_facts() if config is None else config.model_dump(mode="json"))
    elif config is None:
        print("\n".join(f"{name} = {value}" for name, value in _facts().items()))
    else:
        print("\n".join(_explained(config)))
    return 0


def _facts() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    here = provenance(["arrol", "info"], gpu=gpu)
    hosts = host_versions()
    return {"commit": here.commit, "dirty": here.dirty, "device": here.device, **here.versions, **hosts}


def _resolve(path: str) -> StrictModel:
    """The config of a file: a comparison when it has arms, a warm start when it has keys of one, else a run."""
    values = read_toml(path)
    if "arms" in values:
        return load_compare(path)
    if set(values) & (set(SftConfig.model_fields) - set(RunConfig.model_fields)):
        return load_sft(path)
    return load_run(path)


def _explained(node: StrictModel, prefix: str = "") -> list[str]:
    """``section.field = value  # meaning``, as in the config's file."""
    lines = []
    for name, info in type(node).model_fields.items():
        value = getattr(node, name)
        if isinstance(value, StrictModel):
            lines += _explained(value, f"{prefix}{name}.")
        else:
            meaning = " ".join((info.description or "").split())
            shown = node.model_dump(mode="json", include={name})[name]
            lines.append(f"{prefix}{name} = {json.dumps(shown)}" + (f"  # {meaning}" if meaning else ""))
    return lines
