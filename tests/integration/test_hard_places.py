"""Full disks, jumping clocks, no home, odd names of folders, signals again and again: a run is the same in the end."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from arrol.cli.main import main
from arrol.records import store as records
from arrol.records.store import read_run
from integration import tiny
from integration.full_disk import FullDisk
from integration.sameness import assert_same_run

REPORT = "arrol.cli.train.report_after"
"""Takes longer than all the rest and is drawn from the records alone."""
ODD = "p\u00e4th with  blanks, \u65e5\u672c 'quotes' #1"


@pytest.fixture(scope="module")
def num_writes(tmp_path_factory, model_folder, prompt_folder):
    """Of a whole run."""
    folder, disk = tmp_path_factory.mktemp("counted"), FullDisk(10**9)
    config = tiny.save_config(folder / "tiny.toml", model_folder, prompt_folder, folder / "runs")
    with pytest.MonkeyPatch.context() as monkeypatch, disk.over(monkeypatch):
        monkeypatch.setattr(REPORT, lambda *_: None)
        assert main(["train", str(config)]) == 0
    assert disk.writes > 200
    return disk.writes


@pytest.mark.parametrize("reason", ["ENOSPC", "EDQUOT", "EROFS", "EIO"])
def test_a_disk_that_refuses_at_any_moment_costs_one_line_and_nothing_else(
    config, tmp_path, whole, capsys, monkeypatch, num_writes, reason
):
    fails_at = random.Random(reason).randrange(1, num_writes + 1)
    monkeypatch.setattr(REPORT, lambda *_: None)
    with FullDisk(fails_at, getattr(errno, reason)).over(monkeypatch):
        status = main(["train", str(config)])
    err = capsys.readouterr().err
    assert (status, err.count("\n"), err[:7]) == (2, 1, "arrol: "), (fails_at, err)
    resume = ["--resume"] if (tmp_path / "runs" / "tiny" / "records.jsonl").exists() else []
    assert main(["train", str(config), *resume]) == 0, (fails_at, capsys.readouterr())
    assert_same_run(tmp_path / "runs" / "tiny", whole)


def test_signals_that_come_again_and_again_end_the_step_as_one_does(config, tmp_path, whole):
    during = ("arrol.records.lines", "LineWriter.write_line", 60, 40)  # through this step, its checkpoint and its end
    assert tiny.finish(["train", config], tmp_path / "log", during, signal.SIGTERM) == 130, (
        tmp_path / "log"
    ).read_text()
    end = read_run(tmp_path / "runs" / "tiny").end
    assert end.outcome == "stopped"
    assert 0 < end.step < 8
    assert tiny.finish(["train", config, "--resume"], tmp_path / "log") == 0
    assert_same_run(tmp_path / "runs" / "tiny", whole)


def test_a_clock_that_jumps_changes_nothing(config, tmp_path, whole, monkeypatch):
    """Years forward and back between any two looks, also the times of files."""
    years = random.Random(0)

    class Jumping(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime(years.randrange(1970, 2100), 1, 1, tzinfo=UTC)

    monkeypatch.setattr(REPORT, lambda *_: None)
    monkeypatch.setattr(records, "datetime", Jumping)
    monkeypatch.setattr(time, "time", lambda: years.randrange(-(2**31), 2**32))
    assert main(["train", str(config), "--training.steps", "3", "--optimizer.schedule", "constant"]) == 0
    folder = tmp_path / "runs" / "tiny"
    for number, path in enumerate(sorted(folder.rglob("*"))):  # what was written last is the oldest
        os.utime(path, times=(2**31 - 10**6 * number,) * 2)
    assert main(["train", str(config), "--resume", "--training.steps", "8", "--optimizer.schedule", "constant"]) == 0
    straight = ["--optimizer.schedule", "constant", "--out_dir", str(tmp_path / "straight")]
    monkeypatch.undo()
    monkeypatch.setattr(REPORT, lambda *_: None)
    assert main(["train", str(config), *straight]) == 0
    ours, theirs = read_run(folder), read_run(tmp_path / "straight" / "tiny")
    assert ours.run.started_at != theirs.run.started_at
    assert ours.run.resume_step == 3
    assert [row.reward for row in ours.rollouts] == [row.reward for row in theirs.rollouts]
    assert ours.end.totals == theirs.end.totals


def test_odd_names_of_folders_and_no_home(config, tmp_path, model_folder, prompt_folder, whole):
    place = tmp_path / ODD
    place.mkdir()
    model, prompts = (place / folder.name for folder in (model_folder, prompt_folder))
    model.symlink_to(model_folder)
    prompts.symlink_to(prompt_folder)
    config = tiny.save_config(place / "c\u00f6nfig.toml", model, prompts, place / "r\u00fcns here")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HOME", "XDG_"))}
    ended = subprocess.run(
        [sys.executable, "-m", "arrol", "train", str(config), "--training.steps", "4"],
        env={**kept, "HOME": "/nonexistent/home"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    folder = place / "r\u00fcns here" / "tiny"
    assert f"records, rollouts and checkpoints: {folder}" in ended.stdout
    assert [step.step for step in read_run(folder).steps] == [1, 2, 3, 4]
    assert main(["report", str(folder)]) == 0
    assert main(["train", str(config), "--resume", "--training.steps", "5"]) == 0
