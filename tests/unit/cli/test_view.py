"""``arrol view`` as a process: its line, its address, its end."""

import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest

from arrol.cli.main import main
from arrol.records.schema import RunRecord
from arrol.records.store import RecordWriter


@pytest.fixture
def folder(tmp_path):
    row = RunRecord(
        run_id="r", name="small", arm="a", seed=0, command="", commit="c", dirty=False, versions={}, device="",
        config={}, started_at="",
    )  # fmt: skip
    with RecordWriter(tmp_path / "small" / "records.jsonl") as writer:
        writer.write(row)
    return tmp_path / "small"


def test_it_serves_until_it_is_interrupted_and_says_so_in_one_line(folder):
    command = [sys.executable, "-m", "arrol", "view", str(folder), "--port", "0", "--no-browser", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ), text=True
    ) as process:
        said = json.loads(process.stdout.readline())
        assert said["runs"] == 1
        with urllib.request.urlopen(said["url"] + "api/runs", timeout=10) as answer:
            assert json.load(answer)[0]["name"] == "small"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        lines = process.stderr.read().splitlines()
    assert lines == [f"viewer: {said['url']} shows 1 run; Ctrl-C ends it", "viewer: ended"]


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_that_is_none_is_one_line(folder, capsys, port):
    assert main(["view", str(folder), "--port", port]) == 2
    assert capsys.readouterr().err == f"arrol: --port = {port}: must be from 0 to 65535; 0 takes any that is free\n"


def test_a_folder_without_a_run_is_one_line(tmp_path, capsys):
    assert main(["view", str(tmp_path)]) == 2
    assert "holds no records.jsonl" in capsys.readouterr().err
