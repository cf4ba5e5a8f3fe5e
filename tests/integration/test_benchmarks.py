"""Every speed script runs on a tiny shape and leaves valid records. Nothing here looks at a time.

The rival of ``trl_step.py`` lives in an environment of its own; that script is run there (``benchmarks/README.md``).
"""

from __future__ import annotations

import math
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from arrol.records.schema import BenchRecord, RunRecord
from arrol.records.store import read_records

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PHASES = ("generate", "learn", "step")
VARIANTS = {
    "generation": {"arrol", "model.generate"},
    "pruning": {
        *(f"{arm} {phase}" for arm in ("never", "scripted", "uniform") for phase in PHASES),
        *(f"{arm} {phase} speed-up" for arm in ("scripted", "uniform") for phase in PHASES),
        "uniform head",
    },
}


@pytest.fixture
def run_smoke(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Path], None]]:
    """Runs a script as ``python benchmarks/SCRIPT.py --smoke --out FILE`` would, in this process."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def run(script: str, out: Path) -> None:
        path = str(BENCHMARKS / f"{script}.py")
        monkeypatch.setattr(sys, "argv", [path, "--smoke", "--out", str(out)])
        runpy.run_path(path, run_name="__main__")

    yield run
    torch.set_num_threads(threads)
    for name in ("shape", "measure"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("script", ["generation", "pruning"])
def test_script_replaces_its_file_by_valid_records(
    script: str, run_smoke: Callable[[str, Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.jsonl"
    out.write_text("left by an earlier run\n")
    run_smoke(script, out)
    run, *rows = read_records(out)
    assert isinstance(run, RunRecord)
    assert run.name == f"bench-{script}"
    assert run.command.startswith(f"python benchmarks/{script}.py")
    assert str(tmp_path) not in out.read_text()
    benches = [row for row in rows if isinstance(row, BenchRecord)]
    assert len(benches) == len(rows)
    assert {row.variant for row in benches} == VARIANTS[script]
    printed = capsys.readouterr().out
    for row in benches:
        assert row.benchmark == script
        assert row.repeats == 2
        assert 0 < row.p20 <= row.median <= row.p80
        assert (row.ratio_to == "") == math.isnan(row.ratio)
        assert row.variant in printed


def test_bounds_of_pruning_follow_from_the_token_counts(run_smoke: Callable[[str, Path], None], tmp_path: Path) -> None:
    out = tmp_path / "bench.jsonl"
    run_smoke("pruning", out)
    rows = {row.variant: row for row in read_records(out) if isinstance(row, BenchRecord)}
    assert rows["never generate"].config["tokens_generated"] == 8 * 8
    for arm in ("scripted", "uniform"):
        # 8 rollouts of 8 tokens; 4 of them end at the probe, at 3 tokens
        assert rows[f"{arm} generate"].config["tokens_generated"] == 4 * 8 + 4 * 3
        assert rows[f"{arm} generate speed-up"].limit == pytest.approx(64 / 44)
        assert rows[f"{arm} learn speed-up"].limit == pytest.approx(2.0)
        assert 64 / 44 < rows[f"{arm} step speed-up"].limit < 2.0
