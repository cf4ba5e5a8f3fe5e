"""Does a long training stay as it began? 10,000 steps of the tests' tiny model: memory, processor time, records.

``arrol train`` runs as a user runs it, with evaluations and checkpoints; its process is watched from outside. Memory is
the resident set: its slope over the last half of the run, by least squares. Processor seconds per step and bytes of
records per step: the last tenth beside the second (in the first, code is imported and compiled, and the head's buffer
fills). The learning rate is 1e-7: the policy hardly moves, so a step has the same work from first to last, which the
trained tokens show. At the tests' own rate all groups are dead after some hundred steps.

Memories with a limit grow until they are full: of verdicts, and Python's own of names. With ``--filled`` they are full
before the first step, so what still grows is something else. Only memory is recorded, on any machine.

    OMP_NUM_THREADS=1 python benchmarks/long_run.py [--filled] [--steps 10000] [--smoke] [--out FILE]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from arrol.records.schema import BenchRecord, StepRecord
from arrol.records.store import RECORDS_FILE, read_records
from integration import tiny
from measure import write

STEPS, SMOKE_STEPS = 10_000, 60
MIB = 2**20
FILLED = """
import sys
from arrol.cli.main import main
from arrol.verifiers.rules import MAX_REMEMBERED, judged
for number in range(2 * MAX_REMEMBERED):
    judged(f"{number}.5", "1", ["####"])
names = [sys.intern(f"name {number}") for number in range(100_000)]
sys.exit(main(sys.argv[1:]))
"""
"""``arrol``, after as many answers as are remembered; the names are those of an interpreter with many more modules."""


class Look(NamedTuple):
    """The process at one moment."""

    steps: int
    resident_bytes: int
    cpu_s: float
    record_bytes: int
    """Of its rows, rollouts and texts."""


def watch(process: subprocess.Popen[bytes], run: Path, every_s: float, last: int) -> list[Look]:
    """Looks at a training before its ``last`` step: behind it, it reads its records to draw the report."""
    looks: list[Look] = []
    records, read, steps = run / RECORDS_FILE, 0, 0
    while process.poll() is None:
        time.sleep(every_s)
        if records.exists():
            with records.open("rb") as file:
                file.seek(read)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            read, steps = read + len(whole), steps + whole.count(b'"kind": "step"')
        resident, cpu_s = _usage(process.pid)
        if resident and 0 < steps < last:
            looks.append(Look(steps, resident, cpu_s, _size(run)))
    return looks


def _usage(pid: int) -> tuple[int, float]:
    """Resident bytes and processor seconds of a process; zeros when it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return 0, 0.0
    return pages * os.sysconf("SC_PAGE_SIZE"), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _size(run: Path) -> int:
    """Bytes of the run's rows, rollouts and texts."""
    return sum(path.stat().st_size for path in run.glob("*.jsonl"))


def slope(looks: Sequence[Look]) -> float:
    """Resident MiB per 10,000 steps over the last half."""
    half = [look for look in looks if look.steps >= looks[-1].steps / 2]
    steps, resident = (np.array([look[field] for look in half], float) for field in (0, 1))
    return float(np.polyfit(steps, resident / MIB, 1)[0] * 10_000) if len(set(steps)) > 1 else float("nan")


def tenths(looks: Sequence[Look], field: str) -> np.ndarray:
    """float64 ``[10]``: growth of a field per step in each tenth of the run, interpolated between looks."""
    steps = [look.steps for look in looks]
    edges = np.linspace(steps[0], steps[-1], 11)
    return np.diff(np.interp(edges, steps, [getattr(look, field) for look in looks])) / np.diff(edges)


def rows(looks: Sequence[Look], run: Path) -> list[BenchRecord]:
    """The three findings, the wall time of a step and its work."""
    metrics = [row.metrics for row in read_records(run / RECORDS_FILE) if isinstance(row, StepRecord)]
    seconds, tokens = (
        np.array_split(np.array([each[name] for each in metrics]), 10) for name in ("time/step_s", "tokens/trained")
    )
    found = [
        _row("memory, slope over the last half", "MiB/10k", [slope(looks)], 1.0, _memory(looks)),
        _row("wall time of a step, median of each tenth", "s", [float(np.median(part)) for part in seconds]),
        _row("trained tokens of a step, each tenth", "tokens", [float(np.mean(part)) for part in tokens]),
    ]
    for name, field, unit in (
        ("processor time of a step, each tenth", "cpu_s", "s"),
        ("records of a step, each tenth", "record_bytes", "B"),
    ):
        found.append(_row(name, unit, list(tenths(looks, field))))
    return found


def _memory(looks: Sequence[Look]) -> dict[str, Any]:
    """The peak, and a hundred of (step, MiB)."""
    pairs = [(look.steps, round(look.resident_bytes / MIB, 2)) for look in looks]
    return {"peak_mib": max(mib for _, mib in pairs), "resident_mib": pairs[:: max(1, len(pairs) // 100)]}


def _row(
    name: str, unit: str, values: list[float], limit: float = float("nan"), facts: dict[str, Any] | None = None
) -> BenchRecord:
    """``ratio``: the last tenth beside the second."""
    is_tenths = len(values) == 10
    return BenchRecord(
        benchmark="long-run",
        variant=name,
        unit=unit,
        median=float(np.median(values)),
        p20=float(np.quantile(values, 0.2)),
        p80=float(np.quantile(values, 0.8)),
        repeats=len(values),
        ratio_to="second tenth" if is_tenths else "",
        ratio=values[-1] / values[1] if is_tenths else float("nan"),
        limit=limit,
        gap=values[0] / limit,
        config={"values": values, **(facts or {})},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps (default {STEPS})")
    parser.add_argument("--filled", action="store_true", help="memory alone, its parts with a limit filled beforehand")
    parser.add_argument("--smoke", action="store_true", help="few steps; the figures mean nothing")
    parser.add_argument("--out", help="records; replaced; default results/bench-long-run[-filled].jsonl")
    flags = parser.parse_args(arguments)
    name = "bench-long-run-filled" if flags.filled else "bench-long-run"
    steps = SMOKE_STEPS if flags.smoke else flags.steps
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model, prompts = tiny.save_model(folder / "model"), tiny.save_prompts(folder / "prompts")
        config = tiny.save_config(folder / "tiny.toml", model, prompts, folder / "runs")
        words = ["train", str(config), "--training.steps", str(steps)]
        words += ["--evaluation.every", str(steps // 20), "--training.checkpoint_every", str(steps // 10)]
        words += ["--optimizer.learning_rate", "1e-7"]
        words += ["--records.keep_texts_mib", "1"]  # reached early, as long trainings of larger batches reach theirs
        words += ["--quality.batch_size", "256"]  # the default: the tests' 8 takes a second a step of a full buffer
        with (folder / "log").open("wb") as log:
            arrol = ["-c", FILLED] if flags.filled else ["-m", "arrol.cli.main"]
            process = subprocess.Popen([sys.executable, *arrol, *words], stdout=log, stderr=subprocess.STDOUT)
            try:
                looks = watch(process, folder / "runs" / "tiny", 0.02 if flags.smoke else 1.0, steps)
            finally:
                process.kill()
        assert process.returncode == 0, (folder / "log").read_text("utf-8")
        found = rows(looks, folder / "runs" / "tiny")
    if flags.filled:
        found = [row for row in found if row.variant.startswith("memory")]
    write(flags.out or f"results/{name}.jsonl", name, {"steps": steps, "looks": len(looks)}, found, seed=0)


if __name__ == "__main__":
    main()
