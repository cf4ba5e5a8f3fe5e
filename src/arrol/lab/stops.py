"""Stops along the length: of the rollouts that reach a late probe a share eps runs on, with weight 1/eps. Numpy only.

A synchronous step lasts as long as its longest rollout, so stopping the longest tenth shortens it, at the price of
larger weights. The share follows from the formula of all lotteries, survival proportional to sqrt(expected squared
contribution / cost still to come). Where c = 1 for a rollout that reaches the probe, its weight has the second moment
u = 1 + c (1/eps - 1), and the error of a group of n under ``ipw`` with independent draws is exactly

    V(eps) = (E[u |phi|^2] - |E phi|^2) / n + ((E[u |S|^2] - |ES|^2) (E[u r^2] - p^2) + |E[u S r] - p ES|^2) / (n (n-1))
    phi = (r - p) S - r ES         the contribution of one rollout

(Hoeffding's decomposition; V(1) is that of :mod:`arrol.lab.moments`.) Decode steps are not linear in eps, so the eps of
largest merit is searched for. Legend: as in :mod:`arrol.lab.pool`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from arrol.lab.costs import CostModel, Counts
from arrol.lab.merit import Design
from arrol.lab.moments import TINY, Moments, expected_counts, longest_mean, merit
from arrol.lab.pool import Pool

QUANTILES = (0.8, 0.9)
"""Quantiles of the lengths at which rollouts are stopped."""
KEEPS = (0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.57, 0.8)
"""Shares that are tried; the largest weight is 1/0.05."""

WEIGHTED = {"name": "dr_grpo", "correction": "ipw"}
"""Algorithm of designs whose survivors stand for the stopped rollouts."""


class Stop(NamedTuple):
    """A late probe and the share of the rollouts reaching it that runs on."""

    probe: int
    keep: float
    reached: float
    """Share of all rollouts that are longer than the probe."""
    signal: float
    """Their share of the squared contributions."""
    gain: float
    """Estimated merit relative to the same groups without a stop; below 1 where no share pays."""

    def design(self, size: int) -> Design:
        """Groups of ``size`` with this stop.

        Draws are independent: at a late probe a group has few candidates, and an exact count would make them wait for
        their siblings. No floor of survivors: it would keep the longest rollouts of a group that is long as a whole.
        Correction ``ipw``, for which the share is computed.
        """
        fields: dict[str, Any] = {"rule": "uniform", "keep_ratio": self.keep, "probe_tokens": [self.probe]}
        fields |= {"draw": "bernoulli", "min_survivors": 0, "min_survival": self.keep}
        name = f"longest {100 * self.reached:.0f} % stopped at {self.probe}, kept {self.keep:g}, group of {size}"
        change = {"training": {"group_size": size}, "pruning": fields, "algorithm": dict(WEIGHTED)}
        return Design(name, change)


def late_probes(pool: Pool) -> list[int]:
    """The probes nearest to ``QUANTILES`` of the lengths, ascending, each once; only ones that a rollout passes."""
    length_C = pool.length_PN[pool.is_known_PN]
    passed = [tokens for tokens in pool.probe_tokens if (length_C > tokens).any()]
    if not passed:
        return []
    wanted = np.quantile(length_C, QUANTILES)
    return sorted({min(passed, key=lambda tokens: abs(tokens - length)) for length in wanted})


def late_stops(pool: Pool, moments: Moments, model: CostModel, size: int, prompts_per_step: float) -> list[Stop]:
    """The best stop at each late probe; none where the pool has no features, since no probe is known."""
    probes = late_probes(pool) if pool.has_features else []
    return [best_stop(pool, moments, model, size, prompts_per_step, probe) for probe in probes]


def best_stop(pool: Pool, moments: Moments, model: CostModel, size: int, prompts_per_step: float, probe: int) -> Stop:
    """The share of largest estimated merit at a probe that a rollout passes."""
    known_PN, is_long_PN = pool.is_known_PN, pool.is_known_PN & (pool.length_PN > probe)
    weighted = [_Weighted.of(pool, p, is_long_PN[p]) for p in range(pool.num_prompts)]
    generated_P, trained_P, longest = expected_counts(pool, size, prompts_per_step)
    rest = float(np.mean(np.where(is_long_PN, pool.length_PN - probe, 0).sum(1) / known_PN.sum(1))) * size
    long_share = float(pool.length_PN[is_long_PN].sum() / pool.length_PN[known_PN].sum())

    def value(keep: float, steps: float) -> float:
        saved = 1 - keep
        counts = Counts(
            float(generated_P.mean()) - saved * rest,
            steps / prompts_per_step,
            0.0,
            float(trained_P.mean()) * (1 - saved * long_share),
        )
        error = float(np.mean([each.error(size, 1 / keep - 1) for each in weighted]))
        return float(merit(moments.between, error, model.cost(counts)))

    size_P = np.full(pool.num_prompts, size)
    found = {keep: value(keep, longest_mean(pool, size_P, prompts_per_step, (probe, keep))) for keep in KEEPS}
    best = max(found, key=lambda keep: found[keep])
    signal = sum(each.squared[1] for each in weighted) / max(sum(each.squared[0] for each in weighted), TINY)
    return Stop(probe, best, float(is_long_PN.sum() / known_PN.sum()), float(signal), found[best] / value(1.0, longest))


class _Weighted(NamedTuple):
    """Moments of one prompt's rollouts, and the same with c = 1 alone."""

    squared: tuple[float, float]
    """E|phi|^2, E[c |phi|^2]."""
    mean: float
    """|E phi|^2."""
    size: tuple[float, float]
    """E|S|^2 - |ES|^2, E[c |S|^2]."""
    reward: tuple[float, float]
    """E r^2 - p^2, E[c r^2]."""
    cross: tuple[np.ndarray, np.ndarray]
    """E[S r] - p ES, E[c S r], both ``[D]``."""

    @classmethod
    def of(cls, pool: Pool, prompt: int, is_long_N: np.ndarray) -> _Weighted:
        known_N = pool.is_known_PN[prompt]
        reward_N, sketch_ND = pool.reward_PN[prompt, known_N], pool.sketch_PND[prompt, known_N]
        long_N, rate, centre_D = is_long_N[known_N], reward_N.mean(), sketch_ND.mean(0)
        phi_ND = (reward_N - rate)[:, None] * sketch_ND - reward_N[:, None] * centre_D
        squared_N, size_N = (np.einsum("ij,ij->i", each_ND, each_ND) for each_ND in (phi_ND, sketch_ND))
        count = len(reward_N)
        return cls(
            (float(squared_N.mean()), float((long_N * squared_N).mean())),
            float((phi_ND.mean(0) ** 2).sum()),
            (float(size_N.mean() - centre_D @ centre_D), float((long_N * size_N).mean())),
            (float((reward_N**2).mean() - rate**2), float((long_N * reward_N**2).mean())),
            (reward_N @ sketch_ND / count - rate * centre_D, (long_N * reward_N) @ sketch_ND / count),
        )

    def error(self, size: int, odds: float) -> float:
        """V(eps) of a group of ``size``; ``odds`` is 1/eps - 1."""
        squared, sizes, rewards = (whole + odds * long for whole, long in (self.squared, self.size, self.reward))
        cross_D = self.cross[0] + odds * self.cross[1]
        return (squared - self.mean) / size + (sizes * rewards + float(cross_D @ cross_D)) / (size * (size - 1))
