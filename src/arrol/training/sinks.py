"""Where metrics go: the records on disk always, a terminal, TensorBoard, and services that are installed.

Every sink receives the same flat dict once per step. A service that is asked for and not installed is an error before
the run starts, not a silent gap after it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from arrol.errors import MissingExtraError
from arrol.protocols import Sink
from arrol.records.diagnosis import FindingWatch


class TerminalSink:
    """A live line with step, tokens per second, reward, kept share and time left; plain lines where there is no
    terminal. Warns once for each kind of reason why nothing is learned; not at the last step, whose run ends with a
    summary."""

    def __init__(self, label: str, steps: int, console: Console, *, done: int = 0, every_s: float = 5.0) -> None:
        self._label, self._steps, self._console, self._done = label, steps, console, done
        self._started, self._first, self._every_s, self._last = time.monotonic(), done, every_s, -math.inf
        self._watch = FindingWatch()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[line]}"),
            console=console,
            transient=False,
        )
        self._task = self._progress.add_task(label, total=steps, completed=done, line="starting")
        if console.is_terminal:
            self._progress.start()

    def write(self, row: dict[str, object]) -> None:
        self._done = int(str(row["step"]))
        line = self._line(row)
        warnings = self._watch.look({key: value for key, value in row.items() if isinstance(value, float)})
        for warning in warnings if self._done < self._steps else ():
            self._console.print(f"warning: {self._label}, step {self._done}: {warning}", soft_wrap=True)
        if self._console.is_terminal:
            self._progress.update(self._task, completed=self._done, line=line)
        elif time.monotonic() - self._last >= self._every_s or self._done == self._steps:
            self._last = time.monotonic()
            self._console.print(f"{self._label} {self._done}/{self._steps} {line}", highlight=False)

    def close(self) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def _line(self, row: Mapping[str, Any]) -> str:
        seconds = float(row.get("time/step_s", 0.0)) or math.nan
        rate = float(row.get("tokens/generated", row.get("tokens/trained", 0.0))) / seconds
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
        left = (time.monotonic() - self._started) / max(done, 1) * (self._steps - self._done)
        return "  ".join([*parts, f"{left:.0f} s left"])


class TensorBoardSink:
    """Scalars for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def write(self, row: dict[str, object]) -> None:
        step = int(str(row["step"]))
        for key, value in _numbers(row).items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        self._writer.close()


class ServiceSink:
    """wandb or trackio, which share their calls."""

    def __init__(self, service: str, name: str, config: Mapping[str, Any]) -> None:
        self._run = import_module(service).init(project="arrol", name=name, config=dict(config))

    def write(self, row: dict[str, object]) -> None:
        self._run.log({f"arrol/{key}": value for key, value in _numbers(row).items()}, step=int(str(row["step"])))

    def close(self) -> None:
        self._run.finish()


def require_services(report_to: Sequence[str]) -> None:
    """MissingExtraError for a service that is not installed."""
    for service in report_to:
        if find_spec(service) is None:
            raise MissingExtraError(f"report_to = {service!r}: not installed; run: pip install {service}")


def build_sinks(report_to: Sequence[str], folder: Path, name: str, config: Mapping[str, Any]) -> list[Sink]:
    """The services a run asked for; all installed, see :func:`require_services`."""
    return [
        TensorBoardSink(folder / "tensorboard") if service == "tensorboard" else ServiceSink(service, name, config)
        for service in report_to
    ]


def _numbers(row: Mapping[str, object]) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in row.items()
        if isinstance(value, (int, float)) and math.isfinite(value) and key != "step"
    }
