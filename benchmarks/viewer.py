"""How long does ``arrol view`` take to show 100,000 rollouts, and how smoothly does their list scroll?

The rollouts are made up, as many of a step as in ``configs/arithmetic.toml``. A headless Chromium opens the page of
a server that has read nothing yet. ``first rows``: from the start of the navigation to the first rows on the page;
``all rows``: until every rollout is there, filtered and counted; ``frame``: from one frame to the next while the list
jumps by three screens each time.

    python benchmarks/viewer.py
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from arrol.records.schema import BenchRecord, RolloutRecord, RunRecord, StepRecord
from arrol.records.store import RecordWriter, provenance
from arrol.reports.viewer.server import Library, viewer_server
from browser import Browser, find_browser

GROUPS, SIZE = 16, 16
FRAMES = """new Promise((done) => {
  const list = document.getElementById("list"), times = [];
  let last = performance.now();
  const turn = (now) => {
    times.push(now - last);
    last = now;
    list.scrollTop += 3 * list.clientHeight;
    if (times.length < 120) requestAnimationFrame(turn); else done(times.slice(20));
  };
  requestAnimationFrame(turn);
})"""
"""Milliseconds between frames, without the first ones."""


def main() -> None:
    args = parse_args()
    program = find_browser()
    if program is None:
        raise SystemExit("no Chromium found; install one, or set ARROL_CHROMIUM")
    run = provenance(sys.argv, (0,)).run_record(name="bench-viewer", arm="", seed=0, config={"rollouts": args.rollouts})
    found: dict[str, list[float]] = {"first rows": [], "all rows": [], "frame": []}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        write_run(Path(folder) / "run", run, args.rollouts)
        browser = Browser(program, Path(folder) / "profile")
        browser.size(1400, 900)
        for _ in range(args.repeats):
            with viewer_server(Library([Path(folder) / "run"]), 0) as server:
                threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
                browser.open(f"http://127.0.0.1:{server.server_address[1]}/")
                for name in ("first rows", "all rows"):
                    mark = f"performance.getEntriesByName('{name.replace(' ', '-')}')[0].startTime"
                    found[name].append(browser.run(mark) / 1000)
                found["frame"] += [ms / 1000 for ms in browser.run(FRAMES)]
                server.shutdown()
        browser.close()
    args.out.unlink(missing_ok=True)
    with RecordWriter(args.out) as writer:
        writer.write(run)
        for name, values in found.items():
            writer.write(bench(name, values, args))
            print(f"{name}: {np.median(values):.3f} s")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/bench-viewer.jsonl"))
    parser.add_argument("--smoke", action="store_true", help="a tiny run that proves that the script works")
    args = parser.parse_args()
    if args.smoke:
        args.rollouts, args.repeats = 1000, 2
    return args


def write_run(folder: Path, run: RunRecord, count: int) -> None:
    """A run with ``count`` rollouts."""
    stream = np.random.default_rng(0)
    with RecordWriter(folder / "records.jsonl") as records, RecordWriter(folder / "rollouts.jsonl") as rollouts:
        records.write(run)
        for number in range(count):
            step, rest = divmod(number, GROUPS * SIZE)
            rollouts.write(made_up(step + 1, *divmod(rest, SIZE), stream))
            if rest == GROUPS * SIZE - 1:
                records.write(StepRecord(step=step + 1, metrics={"reward/mean": 0.5}))


def made_up(step: int, group: int, index: int, stream: np.random.Generator) -> RolloutRecord:
    quality, stops, right = stream.random(3)
    stopped = stops < 0.4
    return RolloutRecord(
        step=step,
        group=group,
        index=index,
        prompt_key=f"{step % 997}*{group}-{index % 3}=",
        level=group % 5,
        finish_reason="pruned" if stopped else "stop",
        completion_tokens=16 if stopped else int(stream.integers(17, 112)),
        reward=None if stopped else float(right < quality),
        score=float(4 * quality - 2),
        quality=float(quality),
        survival=0.6,
        reason="draw",
        keep=not stopped,
    )


def bench(name: str, values: list[float], args: argparse.Namespace) -> BenchRecord:
    low, median, high = np.quantile(values, [0.2, 0.5, 0.8]).tolist()
    return BenchRecord(
        benchmark="viewer",
        variant=name,
        unit="s",
        median=median,
        p20=low,
        p80=high,
        repeats=args.repeats,
        config={"rollouts": args.rollouts, "samples": len(values)},
    )


if __name__ == "__main__":
    main()
