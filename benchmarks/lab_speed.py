"""How long do a pool of 64 prompts x 96 rollouts of the shipped model, and the advice on it, take on one core?

Both are the commands of the documentation, in processes of their own. Goals: 5 minutes, and 10 seconds.

    OMP_NUM_THREADS=1 python benchmarks/lab_speed.py
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from arrol.records.schema import BenchRecord
from arrol.records.store import RecordWriter, provenance

ROOT = Path(__file__).resolve().parents[1]
GOALS = {"arrol lab": 300.0, "arrol advise": 10.0}
"""Seconds."""


def main() -> None:
    options = _options()
    sizes = ["--prompts", "4", "--rollouts", "8"] if options.smoke else ["--prompts", "64", "--rollouts", "96"]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in GOALS}
    with tempfile.TemporaryDirectory() as folder:
        nothing = Path(folder) / "one.toml"
        nothing.write_text('[[designs]]\nname = "as configured"\n', "utf-8")  # the pool alone is timed
        for repeat in range(options.repeats):
            pool = Path(folder) / f"pool-{repeat}.safetensors"
            config = str(ROOT / "configs" / "arithmetic.toml")
            collect = ["lab", config, "--out", str(pool), "--designs", str(nothing), *sizes]
            seconds["arrol lab"].append(timed(collect))
            seconds["arrol advise"].append(timed(["advise", str(pool)]))
    rows = [
        BenchRecord(
            benchmark="lab",
            variant=name,
            unit="s",
            median=float(np.median([wall for wall, _ in times])),
            p20=float(np.quantile([wall for wall, _ in times], 0.2)),
            p80=float(np.quantile([wall for wall, _ in times], 0.8)),
            repeats=len(times),
            config={"cpu_median_s": float(np.median([cpu for _, cpu in times])), "goal": GOALS[name], "sizes": sizes},
        )
        for name, times in seconds.items()
    ]
    options.out.unlink(missing_ok=True)
    run = provenance(sys.argv, (0,)).run_record(name="lab-speed", arm="", seed=0, config={"repeats": options.repeats})
    with RecordWriter(options.out) as writer:
        for record in (run, *rows):
            writer.write(record)


def timed(words: list[str]) -> tuple[float, float]:
    """Seconds, and processor seconds, of one command of arrol on one thread."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "arrol", *words],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    passed, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"arrol {words[0]}: {passed:.1f} s, {cpu:.1f} s of processor", flush=True)
    return passed, cpu


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/bench-lab.jsonl"))
    parser.add_argument("--smoke", action="store_true", help="a tiny pool that proves that the script works")
    options = parser.parse_args()
    if options.smoke:
        options.repeats = 1
    return options


if __name__ == "__main__":
    main()
