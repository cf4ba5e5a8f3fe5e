"""Metrics, completions and histograms for TensorBoard, and for services that are installed: wandb, trackio.

Every step sends its metrics. Every ``report_every`` steps a table of completions and histograms of the rollouts go with
them, as TRL's ``log_completions`` does. A service that is asked for and not installed is an error before the run
starts, not a silent gap after it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from arrol.errors import MissingExtraError
from arrol.protocols import Sink
from arrol.training.details import StepDetails

TABLE = "completions"
"""Name of the table, as in TRL."""


class Tracker(Sink, Protocol):
    """A sink that shows more than numbers."""

    def show(self, details: StepDetails) -> None:
        """Before :meth:`write` of the same step."""


class TensorBoardSink:
    """Scalars, histograms, and the completions as a Markdown table under Text."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def show(self, details: StepDetails) -> None:
        for name, values in details.values.items():
            self._writer.add_histogram(f"rollouts/{name}", values, details.step)
        self._writer.add_text(TABLE, _markdown(details), details.step)

    def write(self, row: dict[str, object]) -> None:
        step = int(str(row["step"]))
        for key, value in _numbers(row).items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        self._writer.close()


class ServiceSink:
    """wandb or trackio, which share their calls."""

    def __init__(self, service: str, name: str, config: Mapping[str, Any]) -> None:
        self._module = import_module(service)
        self._run = self._module.init(project="arrol", name=name, config=dict(config))
        self._shown: dict[str, Any] = {}

    def show(self, details: StepDetails) -> None:
        """Kept for the next :meth:`write`: a step is one call of the service."""
        import pandas

        self._shown = {
            f"arrol/rollouts/{name}": self._module.Histogram(values) for name, values in details.values.items()
        }
        self._shown[TABLE] = self._module.Table(dataframe=pandas.DataFrame(details.completions))

    def write(self, row: dict[str, object]) -> None:
        shown, self._shown = self._shown, {}
        numbers = {f"arrol/{key}": value for key, value in _numbers(row).items()}
        self._run.log({**numbers, **shown}, step=int(str(row["step"])))

    def close(self) -> None:
        self._run.finish()


def require_services(report_to: Sequence[str], report_every: int = 0) -> None:
    """MissingExtraError for a service that is not installed, or for pandas where ``report_every`` needs it."""
    for service in report_to:
        if find_spec(service) is None:
            raise MissingExtraError(f"report_to = {service!r}: not installed; run: pip install {service}")
        if service != "tensorboard" and report_every and find_spec("pandas") is None:
            raise MissingExtraError(
                f"report_every = {report_every}: tables for {service} need pandas; run: pip install pandas, or set it "
                "to 0"
            )


def build_trackers(report_to: Sequence[str], folder: Path, name: str, config: Mapping[str, Any]) -> list[Tracker]:
    """The services a run asked for; all installed, see :func:`require_services`."""
    return [
        TensorBoardSink(folder / "tensorboard") if service == "tensorboard" else ServiceSink(service, name, config)
        for service in report_to
    ]


def _markdown(details: StepDetails) -> str:
    """The completions as a table whose cells are text: no pipe, line or tag of a completion is markup."""
    if not details.completions:
        return "no completions"
    heads = list(details.completions[0])
    lines = [heads, ["---"] * len(heads)]
    lines += [[_cell(row[head]) for head in heads] for row in details.completions]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    marks = {ord(mark): f"&#{ord(mark)};" for mark in "\\`*_{}[]()#+-.!|<>&"}
    return str(value).translate(marks).replace("\r", "").replace("\n", "<br>")


def _numbers(row: Mapping[str, object]) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in row.items()
        if isinstance(value, (int, float)) and math.isfinite(value) and key != "step"
    }
