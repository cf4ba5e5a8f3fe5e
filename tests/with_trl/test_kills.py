"""The short form of ``benchmarks/host_kills.py``: a training of TRL that is killed, and resumed."""

import json
import runpy
from pathlib import Path

import pytest

import trl_host
from arrol.records.manifest import MANIFEST
from arrol.records.store import RECORDS_FILE, read_records, read_run

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "host_kills.py"


@pytest.mark.timeout(600)
def test_killed_runs_end_as_the_whole_one(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    out = tmp_path / "kills.jsonl"
    assert runpy.run_path(str(SCRIPT))["main"](["trl", "--smoke", "--out", str(out)]) == 0, out.read_text()
    run, *rows = read_records(out)
    assert set(run.config["repeats"].values()) == {"bit for bit"}
    assert sum(row.config["same"] for row in rows) == run.config["kills"] == 2


@pytest.mark.parametrize("rule", ["neyman", "never"])
def test_a_run_that_is_resumed_behind_its_last_step_has_finished(tmp_path, rule):
    """Killed behind the last checkpoint and before the end was recorded: TRL has nothing left to do."""
    saving = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 1, "max_steps": -1}
    build = lambda: trl_host.trainer(trl_host.config(tmp_path, rule=rule, **saving))  # noqa: E731
    build().train()
    record = tmp_path / "arrol"
    whole = read_run(record)
    (record / MANIFEST).unlink()
    *rows, end = (record / RECORDS_FILE).read_text().splitlines(keepends=True)
    assert json.loads(end)["kind"] == "end"
    (record / RECORDS_FILE).write_text("".join(rows))
    resumed = build()
    resumed.train(resume_from_checkpoint=True)
    run = read_run(record)
    assert [row.step for row in run.steps] == [row.step for row in whole.steps]
    assert run.rollouts == whole.rollouts
    assert (run.end.outcome, run.end.step) == ("finished", whole.end.step)


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
