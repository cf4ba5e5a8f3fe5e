"""``arrol info``: versions and device, or a resolved config."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from arrol.cli.tables import print_json
from arrol.configs.base import StrictModel, variants
from arrol.configs.files import kind_of, read_toml
from arrol.configs.run import load_compare, load_run
from arrol.configs.sft import load_sft
from arrol.errors import ConfigError
from arrol.integrations.versions import host_versions
from arrol.records.store import provenance


def run_info(path: str | None, flags: Sequence[str], *, as_json: bool) -> int:
    """Print versions, commit and device; or, of a config under flags, every field with its meaning."""
    if path is None and flags:
        raise ConfigError(
            f"flag = {flags[0]!r}: changes a config, and none is given; write arrol info CONFIG {' '.join(flags)}"
        )
    config = None if path is None else _resolve(path, flags)
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


def _resolve(path: str, flags: Sequence[str]) -> StrictModel:
    """The config of a file under flags, of whichever kind its keys say."""
    kind = kind_of(read_toml(path))
    if kind == "comparison":
        return load_compare(path, flags)
    return load_sft(path, flags) if kind == "warm start" else load_run(path, flags)


def _explained(node: StrictModel, prefix: str = "", choices: Mapping[str, str] | None = None) -> list[str]:
    """``section.field = value  # meaning``, as in the config's file; ``choices`` are those of the node's own tag."""
    lines = []
    for name, info in type(node).model_fields.items():
        value = getattr(node, name)
        if isinstance(value, StrictModel):
            known = variants(info)
            tag = {str(info.discriminator): f"One of {', '.join(known)}."} if known else None
            lines += _explained(value, f"{prefix}{name}.", tag)
        else:
            meaning = " ".join((info.description or (choices or {}).get(name, "")).split())
            shown = node.model_dump(mode="json", include={name})[name]
            lines.append(f"{prefix}{name} = {json.dumps(shown)}" + (f"  # {meaning}" if meaning else ""))
    return lines
