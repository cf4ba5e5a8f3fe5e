"""Are the verifiers right, fast and unbreakable? One record, of four parts.

1. Gold answers of the data sets read and match themselves, also in five other forms; the next other one does not.
2. Completions per second of processor time, ours and the worker's (where the system tells, else of wall time): the
   integer verifier, and the symbolic one on integers, prose and mathematics.
3. Classes of equal answers of generated groups: seconds per group.
4. A fuzz: ``--count`` generated completions (``hostile.py``) through extraction and every verifier. It counts wrong
   verdicts, crashes, verdicts that ran out of time and ones that outlived their limit, and the peak of memory.

The fuzz goes block by block, and each block is a line of ``--state``; started again with the same state, seed, block
and commit it continues. ``--data`` is a folder with ``gsm8k``, ``svamp`` and ``amc23``; a set that is absent is left
out.

    python benchmarks/verifier_checks.py --data ../shared/data --count 20000
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import hostile
from arrol.records.lines import LineWriter
from arrol.records.schema import BenchRecord
from arrol.records.store import RecordWriter, provenance
from arrol.tasks.columns import Columns
from arrol.types import Verdict
from arrol.verifiers.expression import ExpressionVerifier
from arrol.verifiers.integer import IntegerVerifier, final_integer, parse_integer
from arrol.verifiers.pool import VerifierPool, usable_cores
from arrol.verifiers.rules import Judged
from arrol.verifiers.symbolic import SymbolicVerifier

SETS = {"gsm8k": ("train", "test"), "svamp": ("test",), "amc23": ("test",)}
OVERTIME_S = 2.0
"""A verdict that takes so much longer than its limit has hung; the start of a worker is not part of it."""
SAMPLE_S = 0.05
"""Seconds between two readings of a worker's memory."""


def main() -> None:
    args = parse_args()
    records = [*gold_records(args), *speed_records(args), *class_records(args), *fuzz_records(args)]
    args.out.unlink(missing_ok=True)
    config = {k: getattr(args, k) for k in ("count", "block", "workers", "time_limit", "repeats", "per_repeat")}
    run = provenance(sys.argv, (args.seed,)).run_record(name="verifier-checks", arm="", seed=args.seed, config=config)
    with RecordWriter(args.out) as writer:
        for record in (run, *records):
            writer.write(record)
    for record in records:
        print(f"{record.variant:44} {record.median:12.5g} {record.unit:12} n {record.repeats}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="folder of the data sets; none: part 1 is left out")
    parser.add_argument("--count", type=int, default=1_000_000, help="completions of the fuzz")
    parser.add_argument("--block", type=int, default=1_000, help="completions between two lines of the state")
    parser.add_argument("--workers", type=int, default=0, help="worker processes; 0: one per core")
    parser.add_argument("--time-limit", type=float, default=1.0, help="seconds of one symbolic verdict in the fuzz")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each speed")
    parser.add_argument("--per-repeat", type=int, default=400, help="symbolic verdicts of a repeat")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=Path, default=Path("runs/verifier-checks.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("results/bench-verifiers.jsonl"))
    parser.add_argument("--smoke", action="store_true", help="a tiny run that proves that the script works")
    args = parser.parse_args()
    args.workers = args.workers or usable_cores()
    if args.smoke:
        args.count, args.block, args.repeats, args.per_repeat, args.workers = 200, 100, 2, 12, 1
        args.state = args.out.with_suffix(".state")
    return args


def row(variant: str, unit: str, values: Sequence[float], *, repeats: int | None = None, **others: Any) -> BenchRecord:
    """A row of the record; ``gap`` is the share of the limit."""
    ordered = sorted(values)
    limit = others.pop("limit", float("nan"))
    median = statistics.median(ordered)
    return BenchRecord(
        benchmark="verifier-checks",
        variant=variant,
        unit=unit,
        median=median,
        p20=ordered[int(0.2 * (len(ordered) - 1))],
        p80=ordered[-1 - int(0.2 * (len(ordered) - 1))],
        repeats=len(ordered) if repeats is None else repeats,
        limit=limit,
        gap=median / limit if limit else float("nan"),
        config=others,
    )


def gold_records(args: argparse.Namespace) -> list[BenchRecord]:
    """Part 1: each set by both verifiers."""
    records = []
    for name, splits in SETS.items():
        folder = args.data / name if args.data else None
        if folder is None or not folder.is_dir():
            print(f"{name}: left out, no such folder; give --data the folder that holds {name}/", flush=True)
            continue
        rows = [row for split in splits for row in Columns().read(str(folder), split)]
        golds = [row.answer for row in rows]
        values = [parse_integer(gold) for gold in golds]
        others = [next(g for g in golds[i:] + golds if parse_integer(g) != values[i]) for i in range(len(golds))]
        texts = [row.solution or f"so it is \\boxed{{{row.answer}}}." for row in rows]
        for kind, verifier in (("integer", IntegerVerifier()), ("symbolic", SymbolicVerifier())):
            with VerifierPool(verifier, num_workers=args.workers) as pool:
                for what, against, due in (("itself", golds, 1.0), ("another", others, 0.0)):
                    verdicts = pool.verify_all(list(zip(texts, against, strict=True)))
                    rate = sum(verdict.reward for verdict in verdicts) / len(verdicts)
                    variant = f"{name} gold against {what}, {kind}"
                    records.append(row(variant, "frac", [rate], repeats=len(verdicts), limit=due))
                for form in rewritten(golds[0]):
                    pairs = [(f"so it is \\boxed{{{rewritten(gold)[form]}}}.", gold) for gold in golds]
                    rate = sum(verdict.reward for verdict in pool.verify_all(pairs)) / len(pairs)
                    records.append(row(f"{name} gold as {form}, {kind}", "frac", [rate], repeats=len(pairs), limit=1.0))
    return records


def rewritten(gold: str) -> dict[str, str]:
    """Name of a form -> the gold number in it."""
    number = Decimal(gold.replace(",", ""))
    top, bottom = number.as_integer_ratio()
    mantissa, _, exponent = f"{number:E}".partition("E")
    return {
        "fraction": rf"\frac{{{2 * top}}}{{{2 * bottom}}}",
        "decimal": f"{number:.2f}",
        "power of ten": rf"{mantissa} \times 10^{{{int(exponent)}}}",
        "text": rf"\text{{{gold}}}",
        "with unit": rf"{gold} \text{{ cm}}",
    }


def speed_records(args: argparse.Namespace) -> list[BenchRecord]:
    """Part 2: one worker, so that a rate is one of a core."""
    few, many = args.per_repeat, 50 * args.per_repeat
    draw = hostile.random.Random(args.seed)
    numbers = [draw.randint(0, 2_000) for _ in range(many * args.repeats)]
    words = [hostile.prose(draw, 100) for _ in range(100)]
    marked = [(f"{words[i % 100]}\n#### {n}", str(n + (i % 2))) for i, n in enumerate(numbers)]
    boxed = [(f"{words[i % 100]} \\boxed{{{n}.0}}", str(n + (i % 2))) for i, n in enumerate(numbers)]
    spoken = [(f"{words[i % 100]} and so the total is {n} apples.", str(n + (i % 2))) for i, n in enumerate(numbers)]
    symbolic = SymbolicVerifier()
    symbolic.start()
    jobs = [
        ("integer verifier", IntegerVerifier(), marked, many),
        ("symbolic verifier, integers", symbolic, boxed, many),
        ("symbolic verifier, prose without a mark", symbolic, spoken, few),
        ("symbolic verifier, mathematics", symbolic, hostile.mathematics(args.seed, few * args.repeats), few),
    ]
    records = []
    for name, verifier, pairs, size in jobs:
        rates, walls, right = [], [], 0.0
        for repeat in range(args.repeats):
            part = pairs[repeat * size : (repeat + 1) * size]
            started, cpu_started = time.perf_counter(), cpu_s(symbolic.worker_pid)
            right += sum(verifier.verify(*pair).reward for pair in part)
            walls.append(len(part) / (time.perf_counter() - started))
            rates.append(len(part) / (cpu_s(symbolic.worker_pid) - cpu_started))
        share, wall = right / (args.repeats * size), statistics.median(walls)
        others = {"verdicts_per_repeat": size, "right_frac": share, "wall_median": wall}
        records.append(row(name, "1/s per core", rates, **others))
    symbolic.close()
    return records


def class_records(args: argparse.Namespace) -> list[BenchRecord]:
    """Part 3: groups of 32 answers, eight formulas in four spellings."""
    verifier, seconds, questions = SymbolicVerifier(), [], 0
    for repeat in range(args.repeats):
        pairs = hostile.mathematics(args.seed + repeat, 16)[::2]  # the right ones
        answers = [text.rpartition("\\boxed{")[2][:-1] for text, _ in pairs] + [gold for _, gold in pairs]
        with VerifierPool(verifier, num_workers=1) as pool:
            verifier.start()
            started = time.perf_counter()
            (classes,) = pool.classes_of_all([answers * 2])
            seconds.append(time.perf_counter() - started)
        questions += classes.num_questions
    return [row("classes of 32 answers", "s", seconds, questions_per_group=questions / args.repeats)]


class Watched(SymbolicVerifier):
    """A verifier that lives on after a crash; the reason of a verdict is how many seconds it took."""

    def decided(self, text: str, answer: str) -> Judged:
        started = time.monotonic()
        try:
            judged = super().decided(text, answer)
        except Exception as error:  # the crash that the fuzz counts
            return Judged(crash(error))
        return judged._replace(verdict=replace(judged.verdict, reason=str(time.monotonic() - started)))

    def settled(self, judged: Judged, answer: str) -> Verdict:
        if not judged.is_open:
            return judged.verdict
        self.start()
        started = time.monotonic()
        try:
            verdict = super().settled(judged, answer)
        except Exception as error:
            return crash(error)
        return replace(verdict, reason=str(float(judged.verdict.reason) + time.monotonic() - started))


def crash(error: Exception) -> Verdict:
    """The verdict that stands for a crash."""
    return Verdict(reward=-1.0, answer=f"{type(error).__name__}: {error}"[:200], reason="0")


def fuzz_records(args: argparse.Namespace) -> list[BenchRecord]:
    """Part 4, from the finished blocks and the ones left."""
    done = fuzz(args)
    total: Counter[str] = Counter()
    for line in done:
        total.update(line["counts"])
    count = sum(line["count"] for line in done)
    seconds = sum(line["seconds"] for line in done)
    shown = sorted(index for line in done for index in line["surprises"])[:50]
    rates = [
        row(f"fuzz, {what}", "frac", [total[what] / count], repeats=count, limit=0.0, number=total[what])
        for what in ("wrong verdicts", "crashes", "hangs")
    ]
    kinds = {name: total[name] for name in sorted(total)}
    return [
        *rates,
        row("fuzz, out of time", "frac", [total["out of time"] / count], repeats=count, kinds=kinds, surprises=shown),
        row("fuzz, speed", "1/s per worker", [count / seconds / args.workers], repeats=count),
        row("fuzz, longest verdict", "s", [max(line["longest_s"] for line in done)], limit=args.time_limit),
        row("fuzz, peak memory here", "GiB", [max(line["peak_gib"] for line in done)]),
        row("fuzz, peak memory of a worker", "GiB", [max(line["worker_peak_gib"] for line in done)]),
    ]


def fuzz(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The lines of the state; blocks that are missing are run first."""
    name = {"seed": args.seed, "block": args.block, "time_limit": args.time_limit, "commit": provenance([]).commit}
    lines = [line for line in read_lines(args.state) if {key: line.get(key) for key in name} == name]
    done = {line["first"]: line for line in lines if line["first"] < args.count}
    verifier = Watched(time_limit_s=args.time_limit)
    with (
        LineWriter(args.state, is_json, field="state", shown=args.state.name) as writer,
        VerifierPool(verifier, num_workers=args.workers) as pool,
        PeakMemory(pool) as memory,
    ):
        for first in range(0, args.count, args.block):
            if first not in done:
                done[first] = {**name, **fuzz_block(args, first, pool), "worker_peak_gib": memory.peak_gib}
                writer.write_line(json.dumps(done[first]).encode())
                left = args.count - first - done[first]["count"]
                print(f"fuzz: block {first} in {done[first]['seconds']:.1f} s, {left} completions left", flush=True)
    return list(done.values())


def fuzz_block(args: argparse.Namespace, first: int, pool: VerifierPool) -> dict[str, Any]:
    """One block: its counts, and the numbers of the cases that surprised."""
    cases = [hostile.case(args.seed, index) for index in range(first, min(first + args.block, args.count))]
    counts: Counter[str] = Counter()
    surprises, longest = [], 0.0
    started = time.perf_counter()
    verdicts = pool.verify_all([(case.text, case.answer) for case in cases])
    expression = ExpressionVerifier()
    for index, (case, verdict) in enumerate(zip(cases, verdicts, strict=True), first):
        final_integer(case.text)
        expression.verify(case.text, "3 5 7 = 22")
        seconds = float(verdict.reason)
        longest = max(longest, seconds)
        is_hung = seconds > args.time_limit + OVERTIME_S
        is_wrong = case.right is not None and verdict.reward == float(not case.right) and not verdict.timed_out
        counts[case.kind] += 1
        counts["right verdicts"] += verdict.reward == 1.0
        counts["out of time"] += verdict.timed_out
        counts[f"{case.kind}, out of time"] += verdict.timed_out
        counts["crashes"] += verdict.reward < 0
        counts["wrong verdicts"] += is_wrong
        counts["hangs"] += is_hung
        if is_hung or is_wrong or verdict.reward < 0:
            surprises.append(index)
    return {
        "first": first,
        "count": len(cases),
        "seconds": time.perf_counter() - started,
        "counts": {name: number for name, number in counts.items() if number},
        "surprises": surprises,
        "longest_s": longest,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20),
    }


def cpu_s(pid: int | None) -> float:
    """Processor seconds of this process and a worker; wall seconds where the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return time.perf_counter()
    return time.process_time() + (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


class PeakMemory:
    """The largest resident memory of any worker, sampled: what a fork reports of its children is the parent's size."""

    def __init__(self, pool: VerifierPool) -> None:
        self.peak_gib = 0.0
        self._pool = pool
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.peak_gib = max([self.peak_gib, *map(living_gib, self._pool.worker_pids())])


def living_gib(pid: int) -> float:
    """Peak resident memory of a process that lives, where the system tells."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("utf-8", "replace")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 2**20 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if is_json(line)]


def is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


if __name__ == "__main__":
    main()
