"""One writer at a time: the other is named, and its death frees the folder at once."""

import errno
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys

import pytest

from arrol.errors import CheckpointError
from arrol.records import lock
from arrol.records.lock import Claim

HOLD = """
import sys, pathlib
from arrol.records.lock import Claim
with Claim() as claim:
    path = pathlib.Path(sys.argv[1])
    claim.take(path) if path.is_dir() else claim.take_file(path, "--out")
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder():
    """``holder(path)``: a process that holds a folder or file."""
    started = []

    def start(path):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        with process:
            process.kill()


def refusal(take, *given):
    with pytest.raises(CheckpointError) as caught:
        take(*given)
    return str(caught.value)


def test_another_process_is_named_and_its_death_frees_the_folder(tmp_path, holder):
    process = holder(tmp_path)
    facts = json.loads((tmp_path / ".lock").read_text())
    assert (facts["pid"], facts["host"]) == (process.pid, platform.node())
    with Claim() as claim:
        assert refusal(claim.take, tmp_path) == (
            f"name = {tmp_path.name!r}: process {process.pid} on {platform.node()} (since {facts['since']}) writes to "
            f"{tmp_path}; wait for it or choose another --name"
        )
        assert refusal(claim.take, tmp_path, "--to").startswith(f"--to = {str(tmp_path)!r}: process {process.pid} on ")
    assert json.loads((tmp_path / ".lock").read_text()) == facts  # a refusal leaves it alone
    os.kill(process.pid, signal.SIGSTOP)
    with Claim() as claim:
        assert f"process {process.pid} on" in refusal(claim.take, tmp_path)
    process.kill()
    process.wait()
    assert (tmp_path / ".lock").exists()
    with Claim() as claim:
        assert claim.take(tmp_path)
        assert claim.take(tmp_path)
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_held_beside_it_in_folders_that_go_again(tmp_path, holder):
    path = tmp_path / "new" / "er" / "out.jsonl"
    process = holder(path)
    with Claim() as claim:
        line = refusal(claim.take_file, path, "--out")
        assert line.startswith(f"--out = {str(path)!r}: process {process.pid} on ")
        assert line.endswith(f" writes to {path}; wait for it or choose another")
        claim.take_file(path.with_name("other.jsonl"), "--out")
    process.communicate()
    assert list(tmp_path.iterdir()) == []
    with Claim() as claim:
        claim.take_file(path, "--out")
        path.write_text("kept")
    assert path.read_text() == "kept"
    assert [each.name for each in path.parent.iterdir()] == ["out.jsonl"]


def test_a_folder_that_is_absent_is_held_by_no_one(tmp_path):
    before = os.listdir("/proc/self/fd")
    with Claim() as claim:
        assert not claim.take(tmp_path / "none")
        assert claim.take(tmp_path)
    assert os.listdir("/proc/self/fd") == before


def test_what_was_dropped_is_free(tmp_path):
    with Claim() as claim, Claim() as other:
        claim.take(tmp_path)
        assert "writes to" in refusal(other.take, tmp_path)
        claim.drop(tmp_path)
        claim.drop(tmp_path)
        assert other.take(tmp_path)


def test_a_lock_that_was_removed_meanwhile_is_not_taken_for_the_new_one(tmp_path, monkeypatch):
    """Between opening and locking the file its holder may end and another process may make a new one."""
    original, calls = fcntl.flock, []

    def late(descriptor, how):
        if not calls:
            os.unlink(tmp_path / ".lock")
        calls.append(descriptor)
        original(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with Claim() as claim:
        claim.take(tmp_path)
        assert len(calls) == 2
        with Claim() as other:
            assert "writes to" in refusal(other.take, tmp_path)


def test_a_lock_without_a_name_still_holds(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock.os, "pwrite", refuse)
    with Claim() as claim, Claim() as other:
        claim.take(tmp_path)
        assert refusal(other.take, tmp_path).startswith(f"name = {tmp_path.name!r}: another process writes to ")
        for text in ("{", "[]", '{"pid": "x", "host": 1, "since": 2}'):
            (tmp_path / ".lock").write_text(text)
            assert ": another process writes to " in refusal(other.take, tmp_path)


def test_a_disk_without_locks_holds_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    before = os.listdir("/proc/self/fd")
    with Claim() as claim, Claim() as other:
        assert claim.take(tmp_path)
        assert other.take(tmp_path)
    assert os.listdir("/proc/self/fd") == before


def test_a_lock_that_names_no_one_still_holds(tmp_path, holder):
    holder(tmp_path)
    for text in ("[" * 100_000, "{", '{"pid": []}', '{"pid": 1, "host": "a"}', "\xff"):
        (tmp_path / ".lock").write_text(text)
        with pytest.raises(CheckpointError, match="another process writes to"), Claim() as claim:
            claim.take(tmp_path)
