"""Two runs are the same: metrics, evaluations, rollouts, weights, moments and everything that learns, bit for bit."""

import json

import numpy as np

from arrol.records.schema import encode
from arrol.records.store import read_run
from arrol.records.texts import read_texts, text_steps
from arrol.training.checkpoint import load_state, newest_checkpoint


def assert_same_run(folder, other):
    ours, theirs = read_run(folder), read_run(other)
    for kind in ("steps", "evals", "rollouts"):
        assert [plain(row) for row in getattr(ours, kind)] == [plain(row) for row in getattr(theirs, kind)], kind
    assert ours.end.outcome == theirs.end.outcome == "finished"
    assert ours.end.totals == theirs.end.totals
    assert weights(folder) == weights(other)
    first, second = (load_state(newest_checkpoint(run / "checkpoints")) for run in (folder, other))
    for state in (first, second):
        state.pop("segment")
        state["config"].pop("out_dir")
    assert equal(first, second)


def assert_same_texts(folder, other):
    """Completions as text, step by step."""
    assert text_steps(folder) == text_steps(other)
    for step in text_steps(folder):
        assert read_texts(folder, step) == read_texts(other, step), step


def plain(row):
    """Everything that is no time and no name of a process."""
    values = {key: value for key, value in encode(row).items() if key != "segment"}
    if "metrics" in values:
        values["metrics"] = {key: value for key, value in values["metrics"].items() if not key.startswith("time/")}
    return json.dumps(values, sort_keys=True)


def weights(folder):
    files = newest_checkpoint(folder / "checkpoints")
    found = sorted(files.rglob("*.safetensors"))
    assert {path.name for path in found} >= {"optimizer.safetensors"}
    assert len([path for path in found if path.parent.name == "policy"]) == 1
    return [(path.name, path.read_bytes()) for path in found if path.name != "state.safetensors"]


def equal(first, second):
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal, first, second))
    return np.array_equal(first, second, equal_nan=isinstance(first, (float, np.ndarray)))
