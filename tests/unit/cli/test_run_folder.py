"""A run's folder: who writes to it, what may be resumed, and starts that learned nothing."""

import os
import subprocess
import sys

import pytest

from arrol.cli.run_folder import Claim, forget_start, has_learned, require_run
from arrol.errors import CheckpointError
from arrol.records.folder import forget_records
from arrol.records.store import read_records

HOLD = """
import sys, pathlib
from arrol.cli.run_folder import Claim
with Claim() as claim:
    claim.take(pathlib.Path(sys.argv[1]))
    print("held", flush=True)
    sys.stdin.read()
"""


def test_another_process_is_named_and_its_end_frees_the_folder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with Claim() as claim, pytest.raises(CheckpointError, match=f"another process writes to {tmp_path}; wait for"):
            claim.take(tmp_path)
        process.kill()
        process.wait()
        with Claim() as claim:
            claim.take(tmp_path)
            claim.take(tmp_path)


def test_a_folder_that_is_absent_is_held_by_no_one(tmp_path):
    before = os.listdir("/proc/self/fd")
    with Claim() as claim:
        claim.take(tmp_path / "none")
    assert os.listdir("/proc/self/fd") == before


def test_a_resume_needs_a_run(tmp_path, write_run):
    with pytest.raises(CheckpointError) as caught:
        require_run([tmp_path / "a"])
    assert str(caught.value) == (
        f"--resume: {tmp_path / 'a'} holds no run to go on with; {tmp_path} has no run; leave --resume out to start it"
    )
    write_run(tmp_path / "b", "b")
    require_run([tmp_path / "a", tmp_path / "b"])


def test_a_start_that_learned_nothing_is_forgotten(tmp_path, write_run):
    folder = write_run(tmp_path / "a", "a", steps=0)
    assert not has_learned(folder, read_records(folder / "records.jsonl"))
    (folder / "mine.txt").write_text("kept")
    forget_start(folder)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    write_run(folder, "a", steps=1)
    assert has_learned(folder, read_records(folder / "records.jsonl"))
    (folder / "mine.txt").unlink()
    forget_records(folder)
    assert folder.is_dir()
    (folder / "report").mkdir()
    (folder / "report" / "live.html").write_text("of a start that failed")
    forget_start(folder)
    forget_start(folder)
    assert not folder.exists()
    checkpoint = folder / "checkpoints" / "step-000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")
    assert has_learned(folder, [])
