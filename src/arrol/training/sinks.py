"""What a terminal shows of a run while it trains."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from arrol.records.diagnosis import FindingWatch
from arrol.records.live import PLAIN_RAMP, RAMP, History, duration, seconds_left, shown, sparkline, tokens_per_second

CURVES_EVERY_S = 1.0
"""Seconds between two looks of the curves in a terminal."""


class TerminalSink:
    """A live line with step, tokens per second, reward, kept share and time left; plain lines where there is no
    terminal. Warns once for each kind of reason why nothing is learned; not at the last step, whose run ends with a
    summary."""

    def __init__(
        self,
        label: str,
        steps: int,
        console: Console,
        *,
        done: int = 0,
        every_s: float = 5.0,
        has_curves: bool = False,
    ) -> None:
        """``done`` steps were trained before; ``has_curves``: a terminal shows the curves too."""
        self._label, self._steps, self._console, self._done = label, steps, console, done
        self._started, self._first, self._every_s, self._last = time.monotonic(), done, every_s, -math.inf
        self._watch, self._history = FindingWatch(), History()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[line]}"),
            console=console,
            transient=False,
            refresh_per_second=2,
        )
        self._task = self._progress.add_task(label, total=steps, completed=done, line="starting")
        self._view = Live(self._progress, console=console, refresh_per_second=1) if has_curves else None
        if console.is_terminal:
            (self._view or self._progress).start()

    def write(self, row: dict[str, object]) -> None:
        self._done = int(str(row["step"]))
        line = self._line(row)
        metrics = {key: value for key, value in row.items() if isinstance(value, float)}
        if self._view:
            self._history.add(self._done, metrics)
        warnings = self._watch.look(metrics)
        for warning in warnings if self._done < self._steps else ():
            self._console.print(f"warning: {self._label}, step {self._done}: {warning}", soft_wrap=True)
        if self._console.is_terminal:
            self._progress.update(self._task, completed=self._done, line=line)
            if self._view and self._is_due(CURVES_EVERY_S):
                self._view.update(self._curves())
        elif self._is_due(self._every_s):
            self._console.print(f"{self._label} {self._done}/{self._steps} {line}", highlight=False)

    def close(self) -> None:
        if self._console.is_terminal:
            (self._view or self._progress).stop()

    def _is_due(self, every_s: float) -> bool:
        """Whether so many seconds have passed since the last time that it was; True at the last step."""
        now = time.monotonic()
        if now - self._last < every_s and self._done < self._steps:
            return False
        self._last = now
        return True

    def _curves(self) -> Group:
        """The line, and under it each curve in a row: name, course, last value."""
        can_block = "utf" in self._console.encoding.lower()
        width = max(8, min(60, self._console.width - 50))
        rows = [
            f"{curve.name:<30}{sparkline(curve.values, width, ramp=RAMP if can_block else PLAIN_RAMP):<{width + 2}}"
            f"{shown(curve.now)} {curve.unit}"
            for curve in self._history.curves()
        ]
        return Group(self._progress, Text("\n".join(rows), no_wrap=True, overflow="crop"))

    def _line(self, row: Mapping[str, Any]) -> str:
        rate = tokens_per_second(row)
        parts = [] if math.isnan(rate) else [f"{rate:,.0f} tok/s"]
        for key, name in (
            ("reward/mean" if "reward/mean" in row else "rollout/success_frac_before", "reward"),
            ("loss/sft", "loss"),
            ("pruning/kept_frac", "kept"),
            ("eval/accuracy", "accuracy"),
        ):
            value = float(row.get(key, math.nan))
            if math.isfinite(value):
                parts.append(f"{name} {value:.3f}")
        done = self._done - self._first
        left = seconds_left(time.monotonic() - self._started, max(done, 1), self._steps - self._done)
        return "  ".join([*parts, f"{duration(left)} left"])
