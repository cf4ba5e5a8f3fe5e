"""``benchmarks/lottery_checks.py`` on a made-up pool finds bias where there is bias, and none where there is none."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from arrol.records.schema import BenchRecord
from arrol.records.store import read_records
from unit.lab.conftest import make_pool

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of the script."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return runpy.run_path(str(BENCHMARKS / "lottery_checks.py"))


@pytest.mark.parametrize(
    ("start", "is_unbiased"),
    [("uniform, bernoulli, ipw, 8", True), ("lottery 2 after", True), ("paper, plain, 8", False), ("PODS, 8", False)],
)
def test_bias_is_found_where_there_is_some(script: dict[str, Any], start: str, is_unbiased: bool) -> None:
    pool = make_pool()
    (lottery, *_) = (one for one in script["lotteries"](pool) if one.name.startswith(start))
    found = script["Checker"](pool, groups=400).check(lottery)
    assert found.is_unbiased == is_unbiased == (not lottery.bias)
    assert found.groups == 400
    assert found.trained < 0.95


def test_every_lottery_has_a_row(script: dict[str, Any], tmp_path: Path) -> None:
    pool = make_pool(prompts=4, rollouts=16)
    pool.save(tmp_path / "pool.safetensors")
    out = tmp_path / "lotteries.jsonl"
    script["main"](["--pool", str(tmp_path / "pool.safetensors"), "--smoke", "--out", str(out)])
    rows = [row for row in read_records(out) if isinstance(row, BenchRecord)]
    assert [row.variant for row in rows] == [one.name for one in script["lotteries"](pool)]
    assert {bool(row.config["bias"]) for row in rows} == {True, False}
