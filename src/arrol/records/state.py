"""Learned state on disk: JSON values in ``NAME.json``, arrays in ``NAME.safetensors``. No pickle.

Both are checked when they are read: the JSON has a field with the sum of the arrays' file and its own.

>>> import tempfile, numpy as np
>>> with tempfile.TemporaryDirectory() as folder:
...     write_state(Path(folder), "state", {"step": 3, "weights": {"a": np.zeros(2)}})
...     read_state(Path(folder), "state")
{'step': 3, 'weights': {'a': array([0., 0.])}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from arrol.records.manifest import file_sum, value_sum
from arrol.types import State

ARRAY_TAG = "__array__"
SUMS = "__sums__"
"""Field of the JSON: size and SHA-256 of the arrays' file, and SHA-256 of the rest. Releases without sums have none."""


def write_state(folder: Path, name: str, state: State) -> None:
    """Write two files in ``folder``; OSError or SafetensorError when the disk refuses."""
    arrays: dict[str, np.ndarray] = {}
    tree = _split(state, "", arrays)
    path = folder / f"{name}.safetensors"
    save_file(arrays, path)
    (folder / f"{name}.json").write_text(json.dumps({**tree, SUMS: _sums(tree, path)}, indent=1), "utf-8")


def read_state(folder: Path, name: str) -> dict[str, Any]:
    """Inverse of :func:`write_state`; OSError, ValueError, KeyError or SafetensorError for damaged files. A state of a
    release without sums is read as it is."""
    path = folder / f"{name}.safetensors"
    tree = _json(folder, name)
    sums = tree.pop(SUMS, None)
    if sums is not None and sums != _sums(tree, path):
        raise ValueError(f"{name}: not what was written")
    try:
        return _join(tree, load_file(path))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"{name}: an array has another shape than was written") from error


def is_sealed(folder: Path, name: str) -> bool:
    """Whether a state was written with sums; False too where its JSON cannot be read."""
    try:
        return SUMS in _json(folder, name)
    except (OSError, ValueError):
        return False


def _sums(tree: Mapping[str, Any], path: Path) -> dict[str, Any]:
    arrays = list(file_sum(path))
    return {"arrays": arrays, "sha256": value_sum([tree, arrays])}


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads((folder / f"{name}.json").read_text("utf-8"))
    except RecursionError:
        raise ValueError(f"{name}: nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"{name}: no JSON object")
    return value


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
