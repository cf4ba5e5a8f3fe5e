"""``--live``: a page with the curves of a run, rewritten while it trains."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.console import Console

from arrol.errors import ArrolError
from arrol.records.diagnosis import FindingWatch
from arrol.records.live import History, duration, seconds_left
from arrol.records.schema import StepRecord
from arrol.reports.live import Progress, live_page
from arrol.reports.plots import write_whole

LIVE_FILE = Path("report") / "live.html"
"""In the folder of a run."""
EVERY_S = 5
"""Seconds between two versions of the page, and between two looks of the browser."""


class LivePage:
    """A sink: the curves of a run as a page. A page that cannot be written is said once and does not end the run."""

    def __init__(self, folder: Path, name: str, steps: int, console: Console, earlier: Iterable[StepRecord]) -> None:
        """``earlier``: the steps of a run that is resumed, in order."""
        self.path = folder / LIVE_FILE
        self._name, self._steps, self._console = name, steps, console
        self._history, self._watch, self._warnings = History(), FindingWatch(), list[str]()
        for record in earlier:
            self._take(record.step, record.metrics)
        self._started, self._first, self._can_write = time.monotonic(), self._history.step, True
        self._last = -math.inf
        self._write(is_over=False)
        if self._can_write:
            self._console.print(f"live: {self.path}, renewed every {EVERY_S} s; open it in a browser", soft_wrap=True)

    def write(self, row: dict[str, object]) -> None:
        metrics = {key: float(value) for key, value in row.items() if isinstance(value, (int, float))}
        self._take(int(metrics["step"]), metrics)
        if time.monotonic() - self._last >= EVERY_S:
            self._write(is_over=False)

    def close(self) -> None:
        self._write(is_over=True)

    def _take(self, step: int, metrics: dict[str, float]) -> None:
        self._history.add(step, metrics)
        self._warnings += [f"Step {step}: {text}." for text in self._watch.look(metrics)]

    def _write(self, *, is_over: bool) -> None:
        if not self._can_write:
            return
        self._last = time.monotonic()
        step = self._history.step
        left = seconds_left(self._last - self._started, step - self._first, self._steps - step)
        written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        progress = Progress(step, self._steps, "" if math.isnan(left) else duration(left), is_over, written)
        page = live_page(self._name, self._history.curves(), self._warnings, progress, EVERY_S)
        try:
            write_whole(self.path, partial(Path.write_text, data=page, encoding="utf-8"))
        except ArrolError as error:
            self._can_write = False
            self._console.print(f"live: the page is not written any more ({error})", soft_wrap=True)
