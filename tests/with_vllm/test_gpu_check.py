"""Parts of ``make gpu-check`` with vLLM, on tiny shapes and a CPU; what needs a GPU says so."""

import argparse
import json
import math
import sys
from pathlib import Path

import pytest

from arrol.records.store import read_records

FLAGS = {"smoke": True, "shared": None}


@pytest.fixture(scope="module")
def gpu_vllm():
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    import gpu_vllm

    yield gpu_vllm
    sys.path.remove(folder)
    for name in ("gpu_vllm", "gpu_rows", "vllm_pruning", "measure", "shape"):
        sys.modules.pop(name, None)


def run(gpu_vllm, part, file, **flags):
    """What the part wrote: its checks, and every row by name."""
    from gpu_rows import Rows

    with Rows(part, file) as rows:
        gpu_vllm.PARTS[part](rows, argparse.Namespace(**{**FLAGS, **flags}))
    return written(file)


def written(file):
    rows = {row.variant.partition(": ")[2]: row for row in read_records(file)}
    assert all(math.isfinite(row.median) for row in rows.values())
    return {name: row.config["check"] for name, row in rows.items() if "check" in row.config}, rows


def test_who_is_stopped_and_the_scores_are_told_and_left_for_the_comparison(gpu_vllm, tmp_path):
    checks, rows = run(gpu_vllm, "vllm", tmp_path / "rows.jsonl", shared=tmp_path)
    assert set(checks.values()) == {"passed"}
    assert len(checks) == 4
    assert rows["stopped"].median == 0.5
    left = json.loads((tmp_path / "vllm.json").read_text())
    tokens, stopped, scores = left["half"]
    assert len(tokens) == len(scores) == 16
    assert len(stopped) == 8
    assert len({round(score, 6) for score in scores}) > 8, "a head that scores all alike would prove nothing"
    assert left["all"][1] == []


def test_the_large_shape_is_timed_beside_its_bound(gpu_vllm, tmp_path):
    _, rows = run(gpu_vllm, "vllm large", tmp_path / "rows.jsonl")
    speed_up = rows["generation speed-up"]
    assert speed_up.median == pytest.approx(rows["generation, all"].median / rows["generation, half"].median)
    assert speed_up.limit == pytest.approx(
        rows["generation, all"].config["tokens"] / rows["generation, half"].config["tokens"]
    )
    assert 1.2 < speed_up.limit < 1.6
    assert 0 < rows["scoring"].median < 1


def test_the_engine_of_training_follows_its_policy(gpu_vllm, tmp_path):
    with pytest.raises(gpu_vllm.NotHere, match="sleep needs a GPU"):
        run(gpu_vllm, "vllm sleep", tmp_path / "rows.jsonl")
    checks, rows = written(tmp_path / "rows.jsonl")
    assert list(checks.values()) == ["passed"] * 3
    assert rows["changed rollouts after waking"].median == 0.0


@pytest.mark.parametrize("part", ["vllm graphs", "vllm large graphs", "vllm invariant"])
def test_what_needs_a_gpu_says_so(gpu_vllm, part, tmp_path):
    with pytest.raises(gpu_vllm.NotHere, match="need a GPU"):
        run(gpu_vllm, part, tmp_path / "rows.jsonl")
