"""Do verdicts survive what an operating system does to them? Workers killed at random, and 64 trainings at once.

1. Questions of which about half need algebra, while workers are killed with ``kill -9`` at random moments: each verdict
   must be the one that it has without kills, or say that it stayed open.
2. The same questions from 64 threads on one pool, as many verdicts as 64 trainings ask for in a step: each the same.

In both: no process is left behind when the pool is closed, and memory stays bounded.

    OMP_NUM_THREADS=1 python benchmarks/verifier_load.py [--questions 4000] [--trainings 64] [--smoke] [--out FILE]
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import hostile
from accidents import finding
from arrol.types import Verdict
from arrol.verifiers.pool import VerifierPool
from arrol.verifiers.symbolic import SymbolicVerifier
from measure import write
from verifier_checks import PeakMemory

ONE_IN, LATEST_S = 20, 0.02
"""Questions to algebra for each kill, on average; a question takes some milliseconds."""
LIMIT_GIB = 1.0
"""Of all workers together, beside one for each core."""


def questions(seed: int, count: int) -> list[tuple[str, str]]:
    """(completion, gold answer): every other one right; about half need algebra."""
    draw, pairs = random.Random(seed), hostile.mathematics(seed, count // 4)
    shapes = (
        ("{a}", "\\max({a}, {b})"),
        ("\\frac{{{a}}}{{{c}}}", "\\gcd({a}, 0) / {c}"),
        ("{a}", "\\lfloor {a}.5 \\rfloor"),
    )
    for number in range(count - len(pairs)):
        a, c = draw.randint(20, 2000), draw.randint(2, 19)
        found, gold = draw.choice(shapes)
        wrong = number % 2
        pairs.append((f"so \\boxed{{{found.format(a=a + wrong, c=c)}}}", gold.format(a=a, b=a - 1, c=c)))
    draw.shuffle(pairs)
    return pairs


class Mortal(SymbolicVerifier):
    """Its worker is killed around one question in ``ONE_IN``: before it, while it is answered, or after."""

    draw = random.Random(0)
    kills = 0

    def _reply(self, question: dict[str, object], time_limit_s: float) -> dict[str, object] | None:
        if self._worker is not None and self.draw.randrange(ONE_IN) == 0:
            Mortal.kills += 1
            threading.Timer(self.draw.uniform(0, LATEST_S), self._worker.process.kill).start()
        return super()._reply(question, time_limit_s)


def children() -> list[str]:
    """State of each process that this one started and that is still known to the system, zombies included."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text("utf-8", "replace").rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                found.append(fields[0])
    return found


def compared(verdicts: Sequence[Verdict], expected: Sequence[Verdict]) -> tuple[int, int]:
    """How many have another reward without a word; how many stayed open."""
    pairs = list(zip(verdicts, expected, strict=True))
    return sum(a.reward != b.reward and not a.timed_out for a, b in pairs), sum(a.timed_out for a, _ in pairs)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=int, default=4000, help="default 4,000")
    parser.add_argument("--trainings", type=int, default=64, help="threads of the second part (default 64)")
    parser.add_argument("--workers", type=int, default=0, help="0: one for each core")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="few of everything, to test that the script works")
    parser.add_argument("--out", default="results/bench-verifier-load.jsonl", help="records; replaced")
    flags = parser.parse_args(arguments)
    if flags.smoke:
        flags.questions, flags.trainings, flags.workers = 120, 8, 1
    pairs, before = questions(flags.seed, flags.questions), len(children())
    with pool_of(flags) as pool:
        expected = pool.verify_all(pairs)
    by_algebra = sum(verdict.verifier == "math-verify" for verdict in expected)
    started = time.monotonic()
    Mortal.draw = random.Random(flags.seed)
    with VerifierPool(Mortal(time_limit_s=30.0), num_workers=flags.workers) as pool, PeakMemory(pool) as memory:
        wrong, undecided = compared(pool.verify_all(pairs), expected)
    seconds = time.monotonic() - started
    left = len(children()) - before
    row = functools.partial(finding, "verifier-load")
    rows = [
        row("verdicts while workers are killed", len(pairs)),
        row("workers killed", Mortal.kills),
        row("another verdict, without a word", wrong, limit=0),
        row("verdicts that stayed open and say so", undecided),
        row("processes left behind, zombies included", left, limit=0),
        row("largest worker", memory.peak_gib, "GiB", limit=LIMIT_GIB),
        row("seconds", seconds, "s"),
    ]
    starts = [number * len(pairs) // flags.trainings for number in range(flags.trainings)]
    started = time.monotonic()
    with pool_of(flags) as pool, PeakMemory(pool) as memory, ThreadPoolExecutor(flags.trainings) as trainings:
        found = list(trainings.map(lambda at: pool.verify_all(pairs[at:] + pairs[:at]), starts))
    seconds = time.monotonic() - started
    counts = [compared(each, expected[at:] + expected[:at]) for at, each in zip(starts, found, strict=True)]
    rows += [
        row(f"verdicts of {len(found)} trainings at once", len(found) * len(pairs)),
        row("another verdict than of one training", sum(wrong + undecided for wrong, undecided in counts), limit=0),
        row("processes left behind by them", len(children()) - before, limit=0),
        row("largest worker then", memory.peak_gib, "GiB", limit=LIMIT_GIB),
        row("seconds then", seconds, "s"),
    ]
    config = {"questions": len(pairs), "decided_by_algebra": by_algebra, "questions_per_kill": ONE_IN}
    write(flags.out, "bench-verifier-load", config, rows, seed=flags.seed)
    return 1 if any(each.median > each.limit for each in rows) else 0


def pool_of(flags: argparse.Namespace) -> VerifierPool:
    """A new one, that remembers nothing."""
    return VerifierPool(SymbolicVerifier(time_limit_s=30.0), num_workers=flags.workers)


if __name__ == "__main__":
    sys.exit(main())
