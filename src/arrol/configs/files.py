"""A config's file: which of the three kinds it is, and where its relative paths lead.

``model``, ``task.source``, ``task.eval_source`` and ``demonstrations`` are looked for in the folder of the file first,
then in the working directory. A path in a flag is the caller's.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from arrol.errors import ConfigError

Kind = Literal["run", "comparison", "warm start"]
COMMANDS: dict[Kind, str] = {"run": "train", "comparison": "compare", "warm start": "sft"}
RUN_KEYS = frozenset(
    (
        "algorithm",
        "allocation",
        "engine",
        "evaluation",
        "pruning",
        "quality",
        "records",
        "report_every",
        "report_to",
        "sampling",
        "training",
    )
)
"""Top-level keys that only a run's file has."""
WARM_START_KEYS = frozenset(
    (
        "batch_size",
        "bf16",
        "checkpoint_every",
        "demonstrations",
        "gradient_checkpointing",
        "eval_prompts",
        "max_completion_tokens",
        "mixture",
        "pretrain_mixture",
    )
    + ("pretrain_steps", "save_dtype", "shape", "steps")
)
"""Top-level keys that only a warm start's file has."""
DATA = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz")
"""Endings of data files."""
PATHS = (("model",), ("demonstrations",), ("task", "source"), ("task", "eval_source"))


def read_config(path: str | Path, wanted: Kind) -> dict[str, Any]:
    """Raw values of a config of that kind, its paths found; ConfigError for another kind, which names its command."""
    values = read_toml(path)
    kind = kind_of(values)
    if kind not in (wanted, None):
        raise ConfigError(
            f"config = {str(path)!r}: is the config of a {kind}, not of a {wanted}; "
            f"arrol {COMMANDS[kind]} {path} takes it"
        )
    return located(values, Path(path).parent)


def read_toml(path: str | Path) -> dict[str, Any]:
    """The file as a dict; ConfigError when it is absent or not TOML."""
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"config = {str(path)!r}: {_folder_note(path)}")
    if not path.is_file():
        raise ConfigError(f"config = {str(path)!r}: no such file; give the path of a TOML file, {_example(path)}")
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"config = {str(path)!r}: no text in UTF-8; {_other_use(path)}") from None
    except RecursionError:
        raise ConfigError(f"config = {str(path)!r}: nested too deeply; {_other_use(path)}") from None
    except tomllib.TOMLDecodeError as error:
        if path.suffix in DATA:
            raise ConfigError(f"config = {str(path)!r}: no TOML; {_other_use(path)}") from None
        remedy = "mend that line"
        if path.suffix in (".yaml", ".yml"):
            remedy = f"a YAML file of TRL is for arrol grpo --config {path}"
        raise ConfigError(f"config = {str(path)!r}: not valid TOML ({error}); {remedy}") from None
    except ValueError:  # which tomllib lets through
        raise ConfigError(f"config = {str(path)!r}: a number of thousands of digits; {_other_use(path)}") from None


def _other_use(path: Path) -> str:
    """What to give in place of a file that is no TOML."""
    if path.suffix in DATA:
        return f"give the path of a TOML file; problems are for --task.source {path}, completions for --samples {path}"
    return "give the path of a TOML file"


def kind_of(values: Mapping[str, Any]) -> Kind | None:
    """What the keys of a file say that it is; None where they could be a run's or a warm start's."""
    if "arms" in values or "run" in values:
        return "comparison"
    if RUN_KEYS & values.keys():
        return "run"
    return "warm start" if WARM_START_KEYS & values.keys() else None


def located(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """``values`` with the paths in them that lead somewhere from ``folder`` as paths from the working directory."""
    found = dict(values)
    if isinstance(found.get("task"), Mapping):
        found["task"] = dict(found["task"])
    for *section, leaf in PATHS:
        node = found.get(section[0]) if section else found
        if isinstance(node, dict) and isinstance(text := node.get(leaf), str):
            node[leaf] = _beside(text, folder)
    if isinstance(values.get("run"), Mapping):
        found["run"] = located(values["run"], folder)
    if isinstance(arms := values.get("arms"), list):
        found["arms"] = [
            {**arm, "change": located(arm["change"], folder)}
            if isinstance(arm, Mapping) and isinstance(arm.get("change"), Mapping)
            else arm
            for arm in arms
        ]
    return found


def _beside(text: str, folder: Path) -> str:
    path, near = Path(text).expanduser(), folder / text
    if path.is_absolute():
        return str(path)
    try:
        is_other = bool(text) and near.exists() and not (path.exists() and path.samefile(near))
    except OSError:  # no name of a file, such as one that is too long
        return text
    return str(near) if is_other else text


def _folder_note(folder: Path) -> str:
    if (folder / "records.jsonl").is_file() or (folder / "checkpoints").is_dir():
        return "is the folder of a run; give its TOML file, with --resume to go on"
    if (folder / "config.json").is_file():
        return "is the folder of a model; give a TOML file that names it as model"
    return f"is a folder; give a TOML file, {_example(folder / 'x')}"


def _example(path: Path) -> str:
    """The TOML file beside ``path`` whose name is most similar."""
    names = [file.name for file in sorted(path.parent.glob("*.toml"))] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6) or names[:1]
    return f"such as {path.parent / near[0]}" if near else "for example one in configs/"
