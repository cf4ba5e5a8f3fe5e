"""The short form of ``benchmarks/host_kills.py``: a training of TRL that is killed, and resumed."""

import runpy
from pathlib import Path

import pytest

from arrol.records.store import read_records

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "host_kills.py"


@pytest.mark.timeout(600)
def test_killed_runs_end_as_the_whole_one(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    out = tmp_path / "kills.jsonl"
    assert runpy.run_path(str(SCRIPT))["main"](["trl", "--smoke", "--out", str(out)]) == 0, out.read_text()
    run, *rows = read_records(out)
    assert set(run.config["repeats"].values()) == {"bit for bit"}
    assert sum(row.config["same"] for row in rows) == run.config["kills"] == 2


def test_results_are_compared_to_the_last_digit_unless_the_host_is_not(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    differs = runpy.run_path(str(SCRIPT))["differs"]
    one = {"a": [1.0, {"b": (2, "x")}], "c": b"12"}
    assert not differs(one, {"a": [1.0, {"b": (2, "x")}], "c": b"12"}, 0)
    assert differs(one, {"a": [1.0001, {"b": (2, "x")}], "c": b"12"}, 0) == "/a[0]: 1.0 and 1.0001"
    assert not differs(one, {"a": [1.0001, {"b": (2, "x")}], "c": b"12"}, 1e-3)
    assert differs(one, {"a": [1.0, {"b": (3, "x")}], "c": b"12"}, 1e-3) == "/a[1]/b[0]: 2 and 3"
    assert differs(one, {"a": [1.0], "c": b"12"}, 0) == "/a: 2 and 1"
    assert differs(one, {"a": one["a"]}, 0) == ": keys ['c']"
