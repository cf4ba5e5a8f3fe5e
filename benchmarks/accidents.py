"""What the scripts that try to break arrol share: the end of a process and its children, and rows of how runs ended
and of what was counted."""

from __future__ import annotations

import math
import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil

from arrol.records.schema import BenchRecord


@dataclass
class Tally:
    """Of one kind of accident."""

    same: int = 0
    """Ended as the uninterrupted run did."""
    refused: int = 0
    """Ended in one line with the name of the damaged file."""
    different: int = 0
    """Neither: a failure."""
    notes: list[str] = field(default_factory=list)
    """What was different."""

    @property
    def tries(self) -> int:
        return self.same + self.refused + self.different

    def add(self, note: str) -> None:
        """Count a run that ended as it should, or in another way with a note."""
        self.same += not note
        self.different += bool(note)
        self.notes += [note] if note else []


def row(variant: str, tally: Tally) -> BenchRecord:
    """Share of the tries that did not end in another run without a word."""
    share = 1 - tally.different / tally.tries
    counts: dict[str, Any] = {"tries": tally.tries, "same": tally.same, "refused": tally.refused}
    return BenchRecord(
        benchmark="kills",
        variant=variant,
        unit="share",
        median=share,
        p20=share,
        p80=share,
        repeats=tally.tries,
        config={**counts, "different": tally.different, "notes": tally.notes[:3]},
    )


def finding(benchmark: str, variant: str, value: float, unit: str = "", limit: float = math.nan) -> BenchRecord:
    """What was counted, and what it may be at most."""
    return BenchRecord(
        benchmark=benchmark, variant=variant, unit=unit, median=value, p20=value, p80=value, repeats=1, limit=limit
    )


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """``kill -9`` of a process and everything that it started."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    os.kill(process.pid, signal.SIGKILL)
    for each in family[1:]:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    psutil.wait_procs(family[1:], timeout=60)
