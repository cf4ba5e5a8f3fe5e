"""What ``benchmarks/long_run.py`` reads from its looks at a training."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arrol.records.schema import BenchRecord, RunRecord
from arrol.records.store import read_records

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of the script."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return runpy.run_path(str(BENCHMARKS / "long_run.py"))


def test_growth_is_told_per_step(script: dict[str, Any]) -> None:
    """2 bytes of memory per step, 3 s of processor time, 5 bytes of records, looked at now and then."""
    looks = [script["Look"](step, 2**30 + 2 * step, 3.0 * step, 5 * step) for step in (1, 40, 41, 500, 977, 1000)]
    assert script["slope"](looks) == pytest.approx(2 * 10_000 / 2**20)
    np.testing.assert_allclose(script["tenths"](looks, "cpu_s"), np.full(10, 3.0))
    np.testing.assert_allclose(script["tenths"](looks, "record_bytes"), np.full(10, 5.0))


def test_a_step_that_gets_slower_shows_in_the_last_tenth(script: dict[str, Any]) -> None:
    looks = [script["Look"](step, 1, step * step, 1) for step in range(1, 1001)]
    tenths = script["tenths"](looks, "cpu_s")
    assert tenths[-1] / tenths[1] == pytest.approx(1900 / 300, rel=0.01)


@pytest.mark.parametrize("last", [1, 2])
def test_a_process_is_watched_before_its_last_step(script: dict[str, Any], tmp_path: Path, last: int) -> None:
    """What comes behind that step, the report, is no training."""
    row = '{\\"kind\\": \\"step\\"}'
    write = f"open('records.jsonl', 'a').write('{row}' + chr(10)); import time; time.sleep(1)"
    process = subprocess.Popen([sys.executable, "-c", write], cwd=tmp_path)
    looks = script["watch"](process, tmp_path, 0.05, last)
    assert process.returncode == 0
    assert {look.steps for look in looks} == ({1} if last == 2 else set())
    assert all(look.resident_bytes > 2**20 and look.record_bytes == len('{"kind": "step"}') + 1 for look in looks)
    assert os.sysconf("SC_PAGE_SIZE") <= min([look.resident_bytes for look in looks], default=2**20)


def test_memories_of_verdicts_are_full_beforehand(script: dict[str, Any]) -> None:
    told = "from arrol.verifiers import answers, comparison, rules\n"
    for name in ("rules.judged_answer", "answers.read_answer", "answers.decimal_places", "comparison.equality"):
        told += f"assert {name}.cache_info().currsize == rules.MAX_REMEMBERED, {name}.cache_info()\n"
    *fill, _ = script["FILLED"].rstrip().splitlines()
    subprocess.run([sys.executable, "-c", "\n".join([*fill, told])], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("filled", [False, True])
def test_a_training_is_watched(script: dict[str, Any], tmp_path: Path, filled: bool) -> None:
    out = tmp_path / "long.jsonl"
    script["main"](["--smoke", "--out", str(out), *(["--filled"] if filled else [])])
    run, *rows = read_records(out)
    assert isinstance(run, RunRecord)
    assert run.config["steps"] == 60
    found = {row.variant.partition(",")[0]: row for row in rows if isinstance(row, BenchRecord)}
    memory = found["memory"].config
    steps = [step for step, _ in memory["resident_mib"]]
    assert memory["peak_mib"] > 50
    assert steps == sorted(steps)
    assert steps[-1] <= 60
    if filled:
        assert list(found) == ["memory"]
    else:
        assert found["records of a step"].median > 100
