"""All survival rules: quality of the candidates in, probability of surviving out. Pure; only ``oracle`` reads outcomes.

Rules (arXiv 2603.24840 section 4 and our notes; symbols: kappa = keep_ratio, rho = target_positive_ratio, q = quality,
p = survival):

* ``paper``     p = clip(kappa + delta + lambda (rho - q), p_min, p_max), delta solved so that mean p = kappa over the
                recent candidates. As printed, and not our default: unclipped, mean p = kappa forces delta =
                lambda (E q - rho), so rho cancels and the survivors' share of right answers is
                E q - lambda Var q / kappa, always below E q.
* ``balanced``  the same line with the slope that reaches the target: lambda = kappa (E q - rho) / Var q, limited.
* ``neyman``    p proportional to w = sqrt(q (1-b)^2 + (1-q) b^2), b = success rate of the prompt. Minimises the
                variance that pruning adds to the unbiased gradient when score vectors have about equal size (Neyman
                allocation).
* controls      ``never``, ``uniform``, ``confidence`` (DeepConf-style), ``extremes`` (a warning), ``oracle``.

Deviations from the paper: (1) the buffer that fixes delta holds all recent candidates, not survivors only; (2) survival
is recorded through all probes, so several probes compose; (3) ``never`` and warm-up are exact ones.

Legend: ``C`` candidates, ``B`` recent candidates (the buffer), ``G`` rollouts of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from arrol.configs.method import (
    BalancedRule,
    ConfidenceRule,
    ExtremesRule,
    NeymanRule,
    OracleRule,
    PaperRule,
    PruningBase,
)
from arrol.stats import bisect_increasing

MIN_VARIANCE = 1e-3
"""Floor of Var q in ``balanced``: below it every slope is noise."""
BASE_RATE_LIMIT = 0.02
"""``neyman`` believes no prompt to be easier or harder than this."""
MARGIN = 1e-9
"""Rounding allowed in a sum of survivals; also the weight of survival 0 in a lifted group."""


def _none() -> np.ndarray:
    return np.zeros(0)


@dataclass(frozen=True)
class Candidates:
    """Candidates decided together at one probe.

    >>> Candidates(np.array([0.2, 0.8]), group_C=np.array([0, 0])).quality_C.mean()
    np.float64(0.5)
    """

    quality_C: np.ndarray
    """Calibrated probability of ending right, in [0, 1]."""
    group_C: np.ndarray
    """Which group each belongs to; any integers."""
    siblings_known: bool = True
    """All candidates of these groups are here; otherwise constants come from the buffer."""
    history_C: np.ndarray = field(default_factory=_none)
    """Success rate of the prompt in earlier steps, NaN where unknown; empty means all unknown."""
    confidence_C: np.ndarray = field(default_factory=_none)
    """Mean log-probability up to the probe (``confidence`` only)."""
    recent_quality_B: np.ndarray = field(default_factory=_none)
    recent_confidence_B: np.ndarray = field(default_factory=_none)
    recent_history_B: np.ndarray = field(default_factory=_none)
    """Like ``history_C``, of the recent candidates."""

    @property
    def reference_B(self) -> np.ndarray:
        """Qualities that stand for the population: the buffer, or the candidates while it is empty."""
        return self.recent_quality_B if len(self.recent_quality_B) else self.quality_C


Survival = Callable[[Candidates], np.ndarray]
"""Your own rule: float64 ``[C]``, probability of surviving through this probe."""


def never(candidates: Candidates, config: PruningBase, keep_ratio: float) -> np.ndarray:
    """All survive."""
    return np.ones(len(candidates.quality_C))


def uniform(candidates: Candidates, config: PruningBase, keep_ratio: float) -> np.ndarray:
    """All survive with probability ``keep_ratio``, or ``min_survival`` where that is more."""
    return np.full(len(candidates.quality_C), max(keep_ratio, config.min_survival))


def paper(candidates: Candidates, config: PaperRule, keep_ratio: float) -> np.ndarray:
    """The rule as printed, section 4; see the confession on top."""
    slope, rho = config.balance_strength, config.target_positive_ratio
    bounds = (config.min_survival, config.max_survival)
    return clipped_line(
        slope * (rho - candidates.quality_C), slope * (rho - candidates.reference_B), keep_ratio, bounds
    )


def balanced(candidates: Candidates, config: BalancedRule, keep_ratio: float) -> np.ndarray:
    """The slope that reaches the target share, from group moments shrunk to the buffer's, or the buffer's alone."""
    quality_C, reference_B, rho = candidates.quality_C, candidates.reference_B, config.target_positive_ratio
    bounds = (config.min_survival, config.max_survival)

    def line(mean: float, variance: float, pool_C: np.ndarray, over: np.ndarray) -> np.ndarray:
        slope = keep_ratio * (mean - rho) / max(variance, MIN_VARIANCE)
        slope = float(np.clip(slope, -config.max_balance_strength, config.max_balance_strength))
        return clipped_line(slope * (rho - pool_C), slope * (rho - over), keep_ratio, bounds)

    if config.scope == "buffer" or not candidates.siblings_known:
        return line(reference_B.mean(), reference_B.var(), quality_C, reference_B)
    survival_C = np.empty_like(quality_C)
    for rows in _groups(candidates.group_C):
        siblings, tau = quality_C[rows], config.shrinkage
        share = len(siblings) / (len(siblings) + tau)
        mean = share * siblings.mean() + (1 - share) * reference_B.mean()
        variance = share * siblings.var() + (1 - share) * reference_B.var()
        survival_C[rows] = line(mean, variance, siblings, siblings)
    return survival_C


def neyman(candidates: Candidates, config: NeymanRule, keep_ratio: float) -> np.ndarray:
    """Survival proportional to ``neyman_weight``; one scale per group, or one for the whole batch."""
    quality_C, floor = candidates.quality_C, config.min_survival
    if not candidates.siblings_known:
        reference_B = candidates.reference_B
        past_B = _history(candidates.recent_history_B, len(reference_B))
        # The population with its own histories, or the scale would not keep keep_ratio of it.
        weight_B = neyman_weight(reference_B, np.where(np.isnan(past_B), reference_B.mean(), past_B))
        weight_C = candidate_weight(candidates, config.shrinkage)
        return np.clip(_scale(weight_B, keep_ratio, floor) * weight_C, floor, 1.0)
    weight_C = candidate_weight(candidates, config.shrinkage)
    if config.scope == "batch":
        return np.clip(_scale(weight_C, keep_ratio, floor) * weight_C, floor, 1.0)
    survival_C = np.empty_like(quality_C)
    for rows in _groups(candidates.group_C):
        survival_C[rows] = np.clip(_scale(weight_C[rows], keep_ratio, floor) * weight_C[rows], floor, 1.0)
    return survival_C


def candidate_weight(candidates: Candidates, shrinkage: float) -> np.ndarray:
    """:func:`neyman_weight` with the base rate that is known: siblings and history, or the history alone."""
    quality_C = candidates.quality_C
    if candidates.siblings_known:
        return neyman_weight(quality_C, _base_rate(candidates, shrinkage))
    past_C = _history(candidates.history_C, len(quality_C))
    return neyman_weight(quality_C, np.where(np.isnan(past_C), candidates.reference_B.mean(), past_C))


def neyman_weight(quality_C: np.ndarray, base_rate_C: np.ndarray) -> np.ndarray:
    """Root of the expected squared advantage, sqrt(q (1-b)^2 + (1-q) b^2), with b clipped to [0.02, 0.98]."""
    base_C = np.clip(base_rate_C, BASE_RATE_LIMIT, 1 - BASE_RATE_LIMIT)
    return np.sqrt(quality_C * (1 - base_C) ** 2 + (1 - quality_C) * base_C**2)


def confidence(candidates: Candidates, config: ConfidenceRule, keep_ratio: float) -> np.ndarray:
    """1 above the (1 - keep_ratio) quantile of recent mean log-probabilities, else 0.

    ``mix`` adds a uniform lottery.
    """
    recent_B = candidates.recent_confidence_B
    threshold = np.quantile(recent_B if len(recent_B) else candidates.confidence_C, 1 - keep_ratio)
    chosen_C = (candidates.confidence_C >= threshold).astype(float)
    return (1 - config.mix) * chosen_C + config.mix * keep_ratio


def extremes(candidates: Candidates, config: ExtremesRule, keep_ratio: float) -> np.ndarray:
    """1 for the highest and lowest qualities of each group. Removes the surprising outcomes that carry the signal."""
    survival_C = np.zeros(len(candidates.quality_C))
    for rows in _groups(candidates.group_C):
        order = rows[np.argsort(candidates.quality_C[rows], kind="stable")]
        count = max(1, round(keep_ratio * len(rows)))
        survival_C[np.concatenate([order[: count // 2], order[len(order) - (count - count // 2) :]])] = 1.0
    return survival_C


def oracle(reward_G: np.ndarray, config: OracleRule, keep_ratio: float) -> np.ndarray:
    """Survival of finished rollouts of one group, given which are right (reward above 0).

    k = round(keep_ratio G) are kept; right ones among them: min(n_right, max(round(rho k), k - n_wrong)).
    An exact-count draw with these marginals keeps exactly that many of each.
    """
    right_G = np.asarray(reward_G) > 0
    num_right, size = int(right_G.sum()), len(right_G)
    keep = round(keep_ratio * size)
    keep_right = min(num_right, max(round(config.target_positive_ratio * keep), keep - (size - num_right)))
    share_right = keep_right / num_right if num_right else 0.0
    share_wrong = (keep - keep_right) / (size - num_right) if num_right < size else 0.0
    return np.where(right_G, share_right, share_wrong)


RULES: dict[str, Callable[[Candidates, Any, float], np.ndarray]] = {
    "never": never,
    "uniform": uniform,
    "oracle": never,  # it acts after the outcome is known, see training
    "confidence": confidence,
    "extremes": extremes,
    "paper": paper,
    "balanced": balanced,
    "neyman": neyman,
}


def clipped_line(tilt_C: np.ndarray, tilt_B: np.ndarray, keep_ratio: float, bounds: tuple[float, float]) -> np.ndarray:
    """clip(keep_ratio + delta + tilt_C, bounds), delta by bisection so that the mean over ``tilt_B`` is keep_ratio."""
    low, high = bounds
    target = min(max(keep_ratio, low), high)

    def excess(delta: float) -> float:
        return float(np.clip(keep_ratio + delta + tilt_B, low, high).mean()) - target

    reach = 1.0 + float(np.abs(tilt_B).max(initial=0.0))
    return np.clip(keep_ratio + bisect_increasing(excess, -reach, reach) + tilt_C, low, high)


def conditional_survival(
    target_C: np.ndarray,
    previous_C: np.ndarray,
    mean: float,
    min_survival: float,
    *,
    over: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Several probes: probability of passing this probe, given survival so far.

    target / previous, scaled by bisection so that its mean over the running candidates is ``mean``; ``min_survival``
    bounds the product over probes, not each factor. ``over`` gives target and previous survival of the population
    behind that mean; by default the candidates themselves.
    """

    def ratio_and_floor(target: np.ndarray, previous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.minimum(1.0, target / previous), np.minimum(1.0, min_survival / previous)

    ratio_C, floor_C = ratio_and_floor(target_C, previous_C)
    ratio_B, floor_B = ratio_and_floor(*over) if over else (ratio_C, floor_C)
    return np.clip(_scale(ratio_B, mean, floor_B) * ratio_C, floor_C, 1.0)


def lift_to_floor(
    survival_C: np.ndarray, group_C: np.ndarray, needed: dict[int, int], min_survival: float | np.ndarray
) -> np.ndarray:
    """Raise whole groups until the sum of survival reaches the survivors they need; take the excess from the others.

    Before the draw, so survival stays exact: a systematic draw keeps at least floor(sum p) of a group. No survival is
    lowered below ``min_survival`` (one number, or one per candidate).
    """
    given_C, survival_C = survival_C, survival_C.copy()
    lowest_C = np.minimum(min_survival, given_C)
    lifted = np.zeros(len(given_C), bool)
    while True:
        low = [
            (rows, need)
            for rows in _groups(group_C)
            if (need := min(needed.get(int(group_C[rows[0]]), 0), len(rows)))
            and not lifted[rows[0]]
            and survival_C[rows].sum() < need - MARGIN  # the draw itself rounds sums that are whole up to this
        ]
        if not low:
            return survival_C
        for rows, need in low:
            weight = np.maximum(given_C[rows], MARGIN)  # where a rule stops with certainty, all have the same chance
            scale = _scale(weight, need / len(rows), lowest_C[rows])
            survival_C[rows] = np.clip(scale * weight, lowest_C[rows], 1.0)
            lifted[rows] = True
        free = ~lifted
        if free.any():  # the next round lifts the groups that this brings below their need
            left = (float(given_C.sum()) - float(survival_C[lifted].sum())) / int(free.sum())
            scale = _scale(given_C[free], max(left, float(lowest_C[free].mean())), lowest_C[free])
            # Other groups may only lose survival, never gain it.
            survival_C[free] = np.clip(min(scale, 1.0) * given_C[free], lowest_C[free], 1.0)


def _scale(weight_C: np.ndarray, mean: float, floor: float | np.ndarray) -> float:
    """c with mean(clip(c weight, floor, 1)) = mean; 0 weights alone fall back to a uniform by the caller's clip."""
    if not len(weight_C) or weight_C.max() <= 0:
        return 1.0

    def excess(log_c: float) -> float:
        return float(np.clip(np.exp(log_c) * weight_C, floor, 1.0).mean()) - mean

    smallest = float(weight_C[weight_C > 0].min())
    return float(np.exp(bisect_increasing(excess, -40.0, float(-np.log(smallest)) + 1.0)))


def _groups(group_C: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(group_C == group) for group in np.unique(group_C)]


def _history(history: np.ndarray, count: int) -> np.ndarray:
    """NaN for all when empty."""
    return history if len(history) else np.full(count, np.nan)


def _base_rate(candidates: Candidates, shrinkage: float) -> np.ndarray:
    """Mean quality of the group, pulled to the prompt's history where there is one."""
    base_C = np.empty_like(candidates.quality_C)
    history_C = _history(candidates.history_C, len(base_C))
    for rows in _groups(candidates.group_C):
        mean, past = candidates.quality_C[rows].mean(), history_C[rows[0]]
        tau = 0.0 if np.isnan(past) else shrinkage
        base_C[rows] = (len(rows) * mean + tau * (0.0 if np.isnan(past) else past)) / (len(rows) + tau)
    return base_C
