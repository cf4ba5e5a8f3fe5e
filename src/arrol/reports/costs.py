"""Arms at equal cost: the accuracy of each arm when it has spent as much as the first arm.

How each number is made:

1. Every seed is a pair with its own budget: a share of what the first arm's run of that seed had cost at its last
   evaluation. Accuracies there are interpolated linearly between evaluations.
2. A run that ended earlier counts with its last accuracy, which may understate that arm; rows say how many did. Nothing
   is extrapolated, and accuracy beyond the budget does not count.
3. Cost to the first arm's final accuracy: first crossing of the curve averaged over seeds, as a share of the first
   arm's mean total. A curve that overshoots crosses early, so the first arm has a row too, below 1 where its own curve
   did. The range leaves out each seed in turn.

Legend: ``E`` evaluations of a run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from arrol.records.store import Run
from arrol.reports.curves import EvalCurve, cost_to_target, eval_curve, mean_curve, runs_by_arm
from arrol.stats import mean_interval

SHARES = (0.25, 0.5, 1.0)

Pair = tuple[EvalCurve, EvalCurve]
"""The first arm's curve and another arm's, of one seed."""


@dataclass(frozen=True)
class EqualCost:
    """One arm when it had spent a share of the first arm's cost: means over the seeds that both have."""

    arm: str
    share: float
    accuracy: float
    ahead: float
    """Accuracy minus the first arm's, in pairs."""
    low: float
    high: float
    """Ends of its 95% interval, Student's t over seeds; NaN for a single seed."""
    seeds: int
    ended: int
    """Seeds whose run had ended before the budget was spent."""


@dataclass(frozen=True)
class CostToFinal:
    """Cost until an arm reaches the first arm's final accuracy; inf where it never does."""

    arm: str
    cost: float
    share: float
    """Share of the first arm's total."""
    low: float
    high: float
    """Lowest and highest share when any one seed is left out; NaN for a single seed."""
    seeds: int


def equal_cost(runs: Sequence[Run], cost: str, shares: Sequence[float | None] = SHARES) -> list[EqualCost]:
    """Every arm at every share of the first arm's cost; ``cost`` names a field of ``EvalCurve``, such as ``flops_E``.

    The share None is all that both runs of a seed have spent, so none has ended; the row carries the mean share.
    Arms that know no such cost, or share no seed with the first arm, have no rows.
    """
    return [
        row
        for arm, pairs in _pairs(runs, cost).items()
        for share in shares
        if (row := _equal_cost(arm, pairs, cost, share)) is not None
    ]


def _equal_cost(arm: str, pairs: Sequence[Pair], cost: str, share: float | None) -> EqualCost | None:
    totals = np.array([[getattr(curve, cost)[-1] for curve in pair] for pair in pairs])
    budgets = totals.min(axis=1) if share is None else share * totals[:, 0]
    theirs, ours = (
        np.array([accuracy_at(curve, cost, budget) for curve, budget in zip(side, budgets, strict=True)])
        for side in zip(*pairs, strict=True)
    )
    gaps = ours - theirs
    if np.isnan(gaps).any():
        return None
    spent, ended = float(np.mean(budgets / totals[:, 0])), int((totals[:, 1] < budgets).sum())
    return EqualCost(arm, spent, float(ours.mean()), float(gaps.mean()), *mean_interval(gaps), len(pairs), ended)


def accuracy_at(curve: EvalCurve, cost: str, budget: float) -> float:
    """Accuracy when so much had been spent, the last one beyond the end; NaN before the first evaluation."""
    cost_E = getattr(curve, cost)
    return math.nan if budget < cost_E[0] else float(np.interp(budget, cost_E, curve.accuracy_E))


def cost_to_final(runs: Sequence[Run], cost: str) -> list[CostToFinal]:
    """Every arm, the first included, until its mean curve reaches the first arm's mean final accuracy."""
    rows = []
    for arm, pairs in _pairs(runs, cost).items():
        spent, total = _crossing(pairs, cost)
        fewer = [pairs[:at] + pairs[at + 1 :] for at in range(len(pairs))] if len(pairs) > 1 else []
        shares = [part / whole for part, whole in (_crossing(some, cost) for some in fewer)] or [math.nan]
        rows.append(CostToFinal(arm, spent, spent / total, min(shares), max(shares), len(pairs)))
    return rows


def _crossing(pairs: Sequence[Pair], cost: str) -> tuple[float, float]:
    """Mean cost of an arm until it reaches the first arm's final accuracy, and the first arm's total."""
    (_, first_E, first_RE), (_, ours_E, ours_RE) = (mean_curve(side, [cost]) for side in zip(*pairs, strict=True))
    return cost_to_target(ours_E, ours_RE.mean(0), first_RE.mean(0)[-1]), float(first_E[-1])


def _pairs(runs: Sequence[Run], cost: str) -> dict[str, list[Pair]]:
    """Arm -> one pair for each seed that it shares with the first arm; only curves of training at a known cost."""
    curves = {arm: {run.run.seed: eval_curve(run) for run in members} for arm, members in runs_by_arm(runs).items()}
    known = {
        arm: {
            seed: curve
            for seed, curve in members.items()
            if curve.steps_E.size and getattr(curve, cost)[-1] > 0  # False for NaN, an unknown cost
        }
        for arm, members in curves.items()
    }
    first = next(iter(known.values()), {})
    pairs = {arm: [(first[seed], members[seed]) for seed in first if seed in members] for arm, members in known.items()}
    return {arm: found for arm, found in pairs.items() if found}
