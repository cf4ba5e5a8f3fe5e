"""The policy that ``arrol eval`` and ``arrol lab`` sample: of a config, of a run's newest checkpoint, or a model by
folder or hub name. Torch is not loaded.

A model has no config: ``arrol eval MODEL --task.source FILE`` takes a run's defaults under the flags, and evaluates
every row of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from arrol.configs.base import validate
from arrol.configs.flags import override, parse_flags
from arrol.configs.run import RunConfig, load_run
from arrol.configs.shipped import found_model
from arrol.errors import CheckpointError, ConfigError
from arrol.hub import is_model_name
from arrol.records.store import RECORDS_FILE
from arrol.training.checkpoint import SAMPLED, load_state, newest_checkpoint, reading, sound_checkpoint
from arrol.training.model_files import is_adapter_folder

UNUSED = {
    "eval": ("training", "optimizer", "algorithm", "allocation", "pruning", "quality", "report_to", "lora"),
    "lab": ("report_to",),
}
"""Command -> sections of a config that it does not read."""
GIVE = "give the folder of a run that arrol train made"
OF_A_RUN = ("model", "name", "out_dir")
"""What the folder of a run says itself."""


class Policy(NamedTuple):
    """What to sample, and where it was found."""

    config: RunConfig
    source: str
    """Folder or hub name of the weights."""
    state: Mapping[str, Any] | None
    """State of the run's newest checkpoint; None for a config or a model."""


def find_policy(
    source: str,
    flags: Sequence[str],
    command: str,
    say: Callable[[str], None],
    parts: Sequence[str] = SAMPLED,
) -> Policy:
    """The policy of a config's file, a run's folder, or a model; ConfigError for anything else, and for a flag that the
    command would ignore. Of a run, the newest checkpoint with whole ``parts``; ``say`` hears of damaged ones."""
    source = found_model(source)
    folder, given = Path(source), parse_flags(flags, RunConfig)
    for section in UNUSED[command]:
        if section in given:
            raise ConfigError(f"--{section}: arrol {command} does not use it; leave it out")
    if folder.is_dir() and newest_checkpoint(folder / "checkpoints"):
        for name in OF_A_RUN:
            if name in given:
                raise ConfigError(
                    f"--{name} = {given[name]!r}: the folder of a run has its own policy and name; leave it out, or "
                    f"give a config or a model in place of {source}"
                )
        checkpoint = newest_of_run(source, say, parts)
        state = load_state(checkpoint)
        with reading(checkpoint, "state.json"):
            values = {**override(RunConfig, state["config"], flags), "name": folder.resolve().name}
        config = validate(RunConfig, {**values, "out_dir": str(folder.resolve().parent)})
        return Policy(config, str(checkpoint / "policy"), state)
    is_toml = folder.is_file() or folder.suffix == ".toml"
    is_model = (folder / "config.json").is_file() or is_adapter_folder(folder)
    if is_model or (not is_toml and not folder.is_dir() and is_model_name(source)):
        return Policy(_of_model(source, flags, given, command), source, None)
    if is_toml:
        config = load_run(source, flags)
        return Policy(config, config.model, None)
    if folder.is_dir():
        raise CheckpointError(f"run = {source!r}: {folder_note(folder)}")
    raise ConfigError(
        f"source = {source!r}: no such file or folder; give the TOML file of a run, the folder of a run or of a model, "
        "or owner/name of a model on the hub"
    )


def newest_of_run(run: str, say: Callable[[str], None], parts: Sequence[str] = SAMPLED) -> Path:
    """The newest checkpoint of a run's folder with whole ``parts``; CheckpointError without one. ``say`` hears of newer
    ones that are damaged."""
    folder = Path(run)
    if checkpoint := sound_checkpoint(folder / "checkpoints", say, parts):
        return checkpoint
    raise CheckpointError(f"run = {run!r}: {folder_note(folder)}")


def folder_note(folder: Path) -> str:
    """Why a path is no run with a checkpoint, and what to give."""
    if folder.is_file():
        return f"is a file; {GIVE}"
    if not folder.is_dir():
        runs = sorted(path.parent.name for path in folder.parent.glob(f"*/{RECORDS_FILE}"))
        known = f"{folder.parent} has {', '.join(runs[:8])}" if runs else GIVE
        return f"no such folder; {known}"
    if (folder / RECORDS_FILE).is_file():
        return "holds no checkpoint yet; wait for the first, which training.checkpoint_every sets"
    if any(folder.glob(f"*/{RECORDS_FILE}")):
        return "holds runs; give the folder of one of them"
    return f"holds no checkpoint; {GIVE}"


def _of_model(source: str, flags: Sequence[str], given: Mapping[str, Any], command: str) -> RunConfig:
    """A run's defaults for a model, under flags; a source of data makes the task a dataset."""
    if "task" not in given:
        raise ConfigError(
            f"task: missing; a model has no config; write arrol {command} {source} --task.source FILE, or --task NAME"
        )
    name = re.sub(r"[^A-Za-z0-9._-]", "-", Path(source).resolve().name).lstrip("._-") or "model"
    values: dict[str, Any] = {"model": source, "name": name}
    if isinstance(given["task"], Mapping) and given["task"].get("name", "dataset") == "dataset":
        values["task"] = {"name": "dataset", "split": "" if command == "eval" else "train"}
    return validate(RunConfig, override(RunConfig, values, flags))
