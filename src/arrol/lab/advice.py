"""Numbers of a workload that say what could pay: difficulty, dead groups, length tail, ceilings. Pure numpy.

All but :func:`noise` need no gradients. Legend: as in :mod:`arrol.lab.pool`, and ``B`` resampled sets of prompts,
``X`` points of a grid of scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from arrol.lab.costs import CostModel, Counts
from arrol.lab.moments import TINY, Moments, expected_counts, group_counts, merit
from arrol.lab.pool import Pool

RATE_EDGES = (0.06, 0.3, 0.7, 0.94)
RATE_LABELS = ("0", "<.06", ".06-.3", ".3-.7", ".7-.94", ">.94", "1")
RESAMPLES = 200
TAIL_STEPS = 200
"""Steps that are drawn for the length tail."""
MIN_REACHED = 0.5
"""Share of the rollouts that a probe must see to be of use."""
MIN_SURVIVAL, PREFIX = 0.02, 0.2
"""Assumed for the ceiling: least survival; cost of a rollout up to the probe, as a share of its whole cost."""


class Noise(NamedTuple):
    """sigma_w / sigma_b with its 95% interval over prompts."""

    ratio: float
    low: float
    high: float

    @property
    def best_size(self) -> float:
        """G* = 1 + ratio."""
        return 1 + self.ratio


class Tail(NamedTuple):
    """Lengths of completions, and how a synchronous step ends."""

    mean: float
    variation: float
    """Standard deviation / mean."""
    late_share: float
    """Share of a step's decode steps that come after the 90 % quantile of its lengths."""
    truncated: float
    """Share of the rollouts that the length limit cut off."""


class Bounds(NamedTuple):
    """Bounds of the merit of a group size relative to another, for any sigma_w / sigma_b."""

    size: int
    low: float
    high: float


def noise(moments: Moments, *, seed: int = 0) -> Noise:
    """The ratio and its interval; infinite where the prompts' gradients show no spread."""
    count = len(moments.count_P)
    draws_BP = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    low, high = np.quantile([moments.part(draw_P).ratio for draw_P in draws_BP], (0.025, 0.975), method="nearest")
    return Noise(moments.ratio, float(low), float(high))


def success_rates(pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """Right rollouts and those known to be right or wrong, of each prompt that has any, ``[P]`` both."""
    right_P, count_P = (pool.label_PN == 1).sum(1), (~np.isnan(pool.label_PN)).sum(1)
    return right_P[count_P > 0], count_P[count_P > 0]


def difficulty(pool: Pool) -> list[float]:
    """Share of the prompts in each class of ``RATE_LABELS`` by observed success rate."""
    right_P, count_P = success_rates(pool)
    rate_P = right_P / count_P
    inside_P = 1 + np.searchsorted(RATE_EDGES, rate_P, side="right")
    class_P = np.where(right_P == 0, 0, np.where(right_P == count_P, len(RATE_LABELS) - 1, inside_P))
    return (np.bincount(class_P, minlength=len(RATE_LABELS)) / len(class_P)).tolist()


def dead_groups(pool: Pool, size: int) -> float:
    """Expected share of groups of ``size`` whose rewards are all equal; NaN where no prompt has so many rollouts.

    Without bias: the chance that ``size`` different rollouts of a prompt agree, sum_v C(n_v, size) / C(n, size).
    """
    shares = []
    for reward_N, known_N in zip(pool.reward_PN, pool.is_known_PN, strict=True):
        _, count_V = np.unique(reward_N[known_N], return_counts=True)
        if known_N.sum() >= size:
            shares.append(sum(comb(int(n), size) for n in count_V) / comb(int(known_N.sum()), size))
    return float(np.mean(shares)) if shares else float("nan")


def tail(pool: Pool, size: int, prompts_per_step: int, *, seed: int = 0) -> Tail:
    """Length tail of steps with ``prompts_per_step`` groups of ``size``; the late share is over ``TAIL_STEPS``."""
    length_C = pool.length_PN[pool.is_known_PN].astype(float)
    rows = [length_N[known_N] for length_N, known_N in zip(pool.length_PN, pool.is_known_PN, strict=True)]
    rows = [row for row in rows if len(row)]
    rng = np.random.default_rng(seed)
    ends = []
    for _ in range(TAIL_STEPS):
        chosen = rng.integers(0, len(rows), prompts_per_step)
        step = np.concatenate([rng.choice(rows[p], size) for p in chosen])
        ends.append((np.quantile(step, 0.9), step.max()))
    late, last = np.mean(ends, 0)
    truncated = float(pool.is_truncated_PN[pool.is_known_PN].mean())
    return Tail(float(length_C.mean()), float(length_C.std() / length_C.mean()), float(1 - late / last), truncated)


def live_rows(pool: Pool, rows: int) -> np.ndarray:
    """float64: expected rollouts still running after each token, of ``rows`` that start together."""
    length_C = pool.length_PN[pool.is_known_PN]
    return rows * (length_C[:, None] > np.arange(int(length_C.max()))).mean(0)


def time_shares(model: CostModel, counts: Counts) -> dict[str, float]:
    """Share of a step's cost: generate, score, train."""
    parts = {
        "generate": float(np.mean(model.generated * np.asarray(counts.generated)))
        + float(np.mean(model.decode_step * np.asarray(counts.decode_steps))),
        "score": float(np.mean(model.scored * np.asarray(counts.scored))),
        "train": float(np.mean(model.trained * np.asarray(counts.trained))),
    }
    total = sum(parts.values())
    return {name: part / total for name, part in parts.items()}


def ceiling(rate: float, auroc: float, *, prefix: float = PREFIX) -> float:
    """Most that pruning can gain within prompts of success rate ``rate``, at least 1; sigma_b taken as 0.

    Binormal scores of that AUROC; survival clip(k s, MIN_SURVIVAL, 1) with s the root of the expected squared
    advantage given the score, best k. Variance of the weighted estimate times its cost, relative to keeping all.
    """
    if not (0 < rate < 1 and auroc > 0.5):
        return 1.0
    distance = np.sqrt(2) * NormalDist().inv_cdf(min(auroc, 0.9999))
    score_X = np.linspace(-6, 6 + distance, 2001)
    wrong_X, right_X = (1 - rate) * np.exp(-(score_X**2) / 2), rate * np.exp(-((score_X - distance) ** 2) / 2)
    chance_X = (wrong_X + right_X) / (wrong_X + right_X).sum()
    quality_X = right_X / (wrong_X + right_X)
    square_X = quality_X * (1 - rate) ** 2 + (1 - quality_X) * rate**2
    survival_KX = np.clip(np.geomspace(0.05, 200, 400)[:, None] * np.sqrt(square_X), MIN_SURVIVAL, 1)
    cost_K = prefix + (1 - prefix) * (survival_KX @ chance_X)
    gain_K = (chance_X @ square_X) / ((square_X / survival_KX) @ chance_X * cost_K)
    return float(max(1.0, gain_K.max()))


def best_probe(pool: Pool, moments: Moments, model: CostModel, size: int, keep: float = 0.5) -> int | None:
    """The probe with the largest estimated merit in groups of ``size``; None where the pool has no qualities.

    Among the probes that ``MIN_REACHED`` of the rollouts reach. Survival is proportional to the root of the expected
    squared advantage given the quality and keeps ``keep`` of the candidates; V grows by the realised squared advantages
    over survival. Decode steps stay those of whole groups.
    """
    rate_P1 = np.nanmean(np.where(pool.is_known_PN, pool.reward_PN, np.nan), axis=1, keepdims=True)
    square_PN = np.where(pool.is_known_PN, (pool.reward_PN - rate_P1) ** 2, 0.0)
    generated_P, trained_P, longest = expected_counts(pool, size, 1)
    error, tokens_sum = float(moments.error_P(float(size)).mean()), float(pool.length_PN[pool.is_known_PN].sum())
    found: list[tuple[float, int]] = []
    for k, tokens in enumerate(pool.probe_tokens):
        quality_PN = pool.quality_PNK[:, :, k]
        is_candidate_PN = np.isfinite(quality_PN) & pool.is_known_PN
        if is_candidate_PN.sum() < MIN_REACHED * pool.is_known_PN.sum():
            continue
        size_PN = np.sqrt(quality_PN * (1 - rate_P1) ** 2 + (1 - quality_PN) * rate_P1**2)
        scale = keep / max(float(size_PN[is_candidate_PN].mean()), TINY)
        survival_PN = np.where(is_candidate_PN, np.clip(scale * size_PN, 0.1, 1.0), 1.0)
        rest_PN = np.where(is_candidate_PN, (1 - survival_PN) * np.maximum(pool.length_PN - tokens, 0), 0.0)
        lost_PN = np.where(is_candidate_PN, (1 - survival_PN) * pool.length_PN, 0.0)
        counts = Counts(
            generated_P.mean() * (1 - rest_PN.sum() / tokens_sum),
            longest,
            0.0,
            trained_P.mean() * (1 - lost_PN.sum() / tokens_sum),
        )
        growth = float((square_PN / survival_PN).sum() / max(float(square_PN.sum()), TINY))
        found.append((float(merit(moments.between, error * growth, model.cost(counts))), tokens))
    return max(found)[1] if found else None


def size_bounds(pool: Pool, model: CostModel, sizes: Sequence[int], own: int, prompts_per_step: int) -> list[Bounds]:
    """Without gradients: merit of each size relative to ``own`` for sigma_b = 0 and without end, and all between.

    V is taken as sigma_w^2 / (n - 1); costs are those of the pool, dead groups included.
    """
    rows = own * prompts_per_step
    cost = {size: float(model.cost(group_counts(pool, size, rows))) for size in {*sizes, own}}
    found = []
    for size in sizes:
        within = merit(0.0, 1 / (size - 1), cost[size]) / merit(0.0, 1 / (own - 1), cost[own])
        between = cost[own] / cost[size]
        found.append(Bounds(size, float(min(within, between)), float(max(within, between))))
    return found


def step_shares(
    pool: Pool, models: Sequence[CostModel], size: int, prompts_per_step: int
) -> dict[str, dict[str, float]]:
    """Where the time of whole groups goes, per cost model."""
    generated_P, trained_P, longest = expected_counts(pool, size, prompts_per_step)
    counts = Counts(generated_P, longest / prompts_per_step, 0.0, trained_P)
    return {model.name: time_shares(model, counts) for model in models}
