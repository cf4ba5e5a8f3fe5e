"""The short form of ``benchmarks/host_kills.py``: a training whose engine is vLLM, killed and resumed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from arrol.records.store import read_records

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "host_kills.py"


@pytest.mark.timeout(900)
def test_killed_runs_end_as_the_whole_one(tmp_path):
    out = tmp_path / "kills.jsonl"
    command = [sys.executable, str(SCRIPT), "vllm", "--smoke", "--out", str(out)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    run, *rows = read_records(out)
    assert set(run.config["repeats"].values()) == {"bit for bit"}
    assert sum(row.config["same"] for row in rows) == run.config["kills"] == 2
