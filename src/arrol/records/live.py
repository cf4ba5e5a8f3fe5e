"""The curves that are watched while a run trains: what is kept of each step, and one line of text for each curve.

Pure functions over the metrics of steps, for a page and for a terminal.

>>> sparkline([0.0, 0.5, 1.0], 8, ramp="_-^")
'_-^'
>>> duration(75), duration(4000)
('75 s', '67 min')
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Metrics = Mapping[str, float]

RAMP = "".join(chr(0x2581 + height) for height in range(8))
"""Block characters, low to high."""
PLAIN_RAMP = "_.-~=+*#"
"""The same where a terminal has no blocks."""


MAX_POINTS = 400
"""Of a curve: neighbours become their mean where there are more steps, so that a long run costs no more to show."""


class LiveCurve(NamedTuple):
    """One curve: its name, its unit (empty where it has none), and its points."""

    name: str
    unit: str
    steps: np.ndarray
    """float ``[N]``, ascending: steps, or means of neighbouring ones."""
    values: np.ndarray
    """float ``[N]``, finite."""
    first: int
    """First step with a value."""
    last: int
    now: float
    """Value of the last."""


class _Series:
    """Points of one curve, at most ``MAX_POINTS`` with one to spare; each is a sum over ``size`` neighbours."""

    def __init__(self) -> None:
        self.sums: list[tuple[int, float, int]] = []
        """(steps, values, how many)."""
        self.size, self.first, self.last, self.now = 1, 0, 0, math.nan

    def add(self, step: int, value: float) -> None:
        self.first, self.last, self.now = self.first or step, step, value
        if self.sums and self.sums[-1][2] < self.size:
            steps, values, count = self.sums[-1]
            self.sums[-1] = (steps + step, values + value, count + 1)
            return
        self.sums.append((step, value, 1))
        if len(self.sums) > MAX_POINTS:
            pairs = zip(self.sums[::2], [*self.sums[1::2], (0, 0.0, 0)], strict=False)
            self.sums = [(a + d, b + e, c + f) for (a, b, c), (d, e, f) in pairs]
            self.size *= 2

    def curve(self, name: str) -> LiveCurve:
        steps, values, counts = np.array(self.sums, float).T
        return LiveCurve(name, CURVES[name][0], steps / counts, values / counts, self.first, self.last, self.now)


class History:
    """The watched curves, step after step."""

    def __init__(self) -> None:
        self._series = {name: _Series() for name in CURVES}
        self.step = 0
        """The last step added."""

    def add(self, step: int, metrics: Metrics) -> None:
        """Take over what is watched of a step."""
        self.step = step
        for name, (_, read) in CURVES.items():
            value = read(metrics)
            if math.isfinite(value):
                self._series[name].add(step, value)

    def curves(self) -> list[LiveCurve]:
        """The curves with at least one point, in the order of ``CURVES``."""
        return [series.curve(name) for name, series in self._series.items() if series.sums]


def sparkline(values: Sequence[float] | np.ndarray, width: int, *, ramp: str = RAMP) -> str:
    """Finite values, or means of neighbours, as at most ``width`` characters; a constant is a line at the bottom."""
    known = np.asarray(values, float)
    if not len(known):
        return ""
    starts = np.unique(np.arange(min(width, len(known))) * len(known) // min(width, len(known)))
    known = np.add.reduceat(known, starts) / np.diff(np.append(starts, len(known)))
    low, high = known.min(), known.max()
    place = (known - low) / (high - low) if high > low else np.zeros(len(known))
    return "".join(ramp[int(height)] for height in np.minimum(place * len(ramp), len(ramp) - 1))


def seconds_left(elapsed_s: float, done: int, left: int) -> float:
    """Time of the ``left`` steps at the pace so far; NaN before the first is done."""
    return elapsed_s / done * left if done > 0 else math.nan


def duration(seconds: float) -> str:
    """Seconds, minutes, or hours and minutes, whichever reads best."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def shown(value: float) -> str:
    """A number of a curve with three digits or more."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def tokens_per_second(metrics: Metrics) -> float:
    """Tokens generated, or trained in a warm start, per second of the step; NaN where the step does not say."""
    seconds = float(metrics.get("time/step_s", 0.0)) or math.nan
    return float(metrics.get("tokens/generated", metrics.get("tokens/trained", math.nan))) / seconds


def _value_of(key: str) -> Callable[[Metrics], float]:
    return lambda metrics: float(metrics.get(key, math.nan))


CURVES: dict[str, tuple[str, Callable[[Metrics], float]]] = {
    "reward": ("", _value_of("reward/mean")),
    "share right": ("", _value_of("rollout/success_frac_before")),
    "accuracy on held-out prompts": ("", _value_of("eval/accuracy")),
    "kept share of the candidates": ("", _value_of("pruning/kept_frac")),
    "AUROC within prompts": ("", _value_of("quality/auroc_within_prompt")),
    "completion length": ("tokens", _value_of("rollout/completion_tokens/mean")),
    "speed": ("tokens/s", tokens_per_second),
    "time per step": ("s", _value_of("time/step_s")),
}
"""Name -> (unit, how it is read from a step)."""
