"""How often a right rollout was stopped: of the stopped rollouts that were finished aside, by their quality.

A head that tells siblings apart stops few right rollouts at low quality. Each row has a share with its 95% interval
(Wilson), which takes rollouts as independent; siblings are not quite, so it is somewhat narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from arrol.records.store import Run, judges_by_function, success_label
from arrol.stats import wilson_interval

EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
HEADS = ("arm", "quality at the stop", "finished aside", "would be right", "95% interval", "mean quality")


class ShadowRow(NamedTuple):
    """One range of quality of one arm."""

    arm: str
    quality: str
    finished: int
    right: int
    low: float
    high: float
    mean_quality: float
    """NaN where nothing was scored."""

    def cells(self) -> list[str]:
        """As a table shows it."""
        mean = "-" if math.isnan(self.mean_quality) else f"{self.mean_quality:.2f}"
        share = f"{self.right / self.finished:.3f}"
        return [self.arm, self.quality, str(self.finished), share, f"{self.low:.3f} to {self.high:.3f}", mean]


def shadow_rows(runs: Sequence[Run]) -> list[ShadowRow]:
    """For each arm a row over all, then one per range of quality; empty where nothing was finished aside."""
    found: dict[str, list[tuple[float, int]]] = {}
    for run in runs:
        judges = judges_by_function(run.run)
        for shadow in run.shadows:
            right = success_label(shadow.reward, shadow.success, by_function=judges)
            if right is not None:
                found.setdefault(run.run.arm, []).append((shadow.quality, right))
    rows = []
    for arm, pairs in found.items():
        rows.append(_row(arm, "all", pairs))
        for low, high in pairwise(EDGES):
            part = [pair for pair in pairs if low <= pair[0] < high or pair[0] == high == EDGES[-1]]
            if part:
                rows.append(_row(arm, f"{low:.1f} to {high:.1f}", part))
    return rows


def _row(arm: str, quality: str, pairs: Sequence[tuple[float, int]]) -> ShadowRow:
    right, scored = sum(label for _, label in pairs), [score for score, _ in pairs if not math.isnan(score)]
    interval = wilson_interval(right, len(pairs))
    mean = math.fsum(scored) / len(scored) if scored else math.nan
    return ShadowRow(arm, quality, len(pairs), right, interval.low, interval.high, mean)
