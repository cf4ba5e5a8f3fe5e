"""Checkpoints: all or nothing, safetensors and JSON, no pickle.

Layout of ``RUN/checkpoints/step-000020``::

    policy/               a plain save_pretrained folder with its tokenizer: usable anywhere
    optimizer.safetensors moments of AdamW by parameter number
    state.safetensors     arrays of everything else that learns (estimator, controller, random states)
    state.json            the rest, with the config and the step

A folder is written under a hidden name, flushed to disk and then renamed, so a folder without that prefix is always
whole. Whatever goes wrong while saving, older checkpoints stay.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from arrol.errors import CheckpointError
from arrol.types import State

PREFIX, PARTIAL = "step-", ".partial-"
ARRAY_TAG = "__array__"


def save_checkpoint(
    folder: Path, step: int, model: Any, tokenizer: Any, optimizer: torch.optim.Optimizer, state: State, keep: int
) -> Path:
    """Write step's checkpoint below ``folder`` and remove all but the newest ``keep``."""
    final, partial = folder / f"{PREFIX}{step:06d}", folder / f"{PARTIAL}{step:06d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        model.save_pretrained(partial / "policy")
        tokenizer.save_pretrained(partial / "policy")
        save_file(_optimizer_tensors(optimizer), partial / "optimizer.safetensors")
        arrays: dict[str, np.ndarray] = {}
        tree = _split(state, "", arrays)
        save_arrays(arrays, partial / "state.safetensors")
        (partial / "state.json").write_text(json.dumps(tree, indent=1), "utf-8")
        _flush(partial)
        if final.exists():  # the same step again, after a resume
            shutil.rmtree(final)
        os.replace(partial, final)
        _flush_folder(folder)
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(_save_message(folder, error)) from None
    for old in _complete(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, None when there is none; leftovers of a crash are removed."""
    for partial in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(partial, ignore_errors=True)
    found = _complete(folder)
    return found[-1] if found else None


def load_state(checkpoint: Path) -> dict[str, Any]:
    """What ``save_checkpoint`` was given as ``state``."""
    try:
        arrays = load_arrays(checkpoint / "state.safetensors")
        tree = json.loads((checkpoint / "state.json").read_text("utf-8"))
        return _join(tree, arrays)
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint = {checkpoint.name!r}: damaged ({type(error).__name__}); "
            "delete that folder to go on from an older one"
        ) from None


def load_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
    """Moments back into a fresh optimiser over the same parameters."""
    try:
        flat = load_file(checkpoint / "optimizer.safetensors")
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint = {checkpoint.name!r}: optimizer.safetensors is damaged ({type(error).__name__}); "
            "delete that folder"
        ) from None
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in flat.items():
        number, name = key.split(".", 1)
        moments.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def require_same_config(
    saved: Mapping[str, Any], current: Mapping[str, Any], free: frozenset[str], path: str = ""
) -> None:
    """CheckpointError naming the first field in which a checkpoint's config differs from the run's."""
    for key in sorted({*saved, *current}):
        name, old, new = f"{path}{key}", saved.get(key), current.get(key)
        if name in free:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            require_same_config(old, new, free, f"{name}.")
        elif old != new:
            raise CheckpointError(
                f"{name} = {new!r}: the checkpoint was made with {old!r}; "
                "resume with that value or give the run another name"
            )


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{number}.{name}": value.contiguous()
        for number, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def _split(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """JSON values with arrays taken out into ``arrays`` under their path."""
    if isinstance(value, Mapping):
        return {str(key): _split(item, f"{path}/{key}", arrays) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        arrays[path] = np.ascontiguousarray(value)
        return {ARRAY_TAG: path, "shape": list(value.shape)}
    if isinstance(value, (list, tuple)):
        return [_split(item, f"{path}/{i}", arrays) for i, item in enumerate(value)]
    return value


def _join(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(tree, dict):
        if ARRAY_TAG in tree:
            return arrays[tree[ARRAY_TAG]].reshape(tree["shape"])
        return {key: _join(item, arrays) for key, item in tree.items()}
    return [_join(item, arrays) for item in tree] if isinstance(tree, list) else tree


def _complete(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{PREFIX}*") if (path / "state.json").is_file())


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _flush_folder(path)
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    if os.name == "posix":  # other systems cannot open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _save_message(folder: Path, error: Exception) -> str:
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    reason = "the disk is full" if full else str(error).splitlines()[0]
    remedy = "free some space" if full else "make the folder writable"
    return (
        f"out_dir = {folder.parent.name!r}: the checkpoint could not be saved, {reason}; "
        f"{remedy} and resume, older checkpoints are intact"
    )
