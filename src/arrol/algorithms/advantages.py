"""Rewards to advantages and weights, after some rollouts were stopped. Pure numpy, one group at a time.

With R reward, K = 1 for survivors, p survival, q predicted quality, G rollouts started:

* ``plain``          mean and spread of the survivors, weight 1. As published (arXiv 2603.24840); biased for the full
                     group, since the survivors' mean follows the rule.
* ``ipw``            weight 1/p; baseline b = (1/G) sum K R / p. (1/G) sum_i (K_i/p_i) (R_i - b) S_i is unbiased.
* ``doubly_robust``  weight 1/p; b = (1/G) sum [q + (K/p) (R - q)], where a rollout that was never a candidate counts R.
                     Uses the stopped rollouts' predictions too; unbiased for any q, because p is known; good q lowers
                     the variance.

Options: ``leave_one_out`` takes rollout i out of its own baseline and multiplies by (1 - 1/G), which without pruning is
exactly R - mean R, and makes the expected pruned gradient equal the full group's. In i's baseline the others weigh
1 over their survival given that i survived, p_j where draws are independent. An exact-count draw is not: a survivor
leaves fewer places to its siblings, so there the weight is p_i / p_ij, with ``joint_GG`` as p_ij
(:func:`arrol.pruning.draws.joint_survival`). ``self_normalized`` divides the weighted sums by the sum of weights and
clips b to [0, 1]: less variance, bias of order 1/G. ``normalize_by_std`` divides by the spread: of the survivors
(plain), else sqrt(b (1 - b)) for 0/1 rewards.

Deviations: (1) spreads are population ones, so 0/1 rewards give sqrt(b (1 - b)); (2) under weights b is kept 1/(2G)
away from 0 and 1 inside the spread, or a group that is almost dead would be blown up again; (3) the clip of b widens to
the rewards seen, since a length penalty makes some negative; (4) a rollout that ended in an error counts as a reward of
0 in b. Legend: ``G`` rollouts of a group.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from arrol.configs.method import AlgorithmBase

EPSILON = 1e-6
FLOAT_NOISE = 1e-12
"""An advantage below this is rounding, and a group without signal must cost nothing."""


class GroupSignal(NamedTuple):
    """Advantages and weights of one group."""

    advantage_G: np.ndarray
    """float64 ``[G]``; 0 for rollouts that did not survive."""
    weight_G: np.ndarray
    """float64 ``[G]``; 1/survival (or 1 for ``plain``), 0 for rollouts that did not survive."""
    baseline: float
    """Estimated success rate of the group, from all its rollouts."""
    spread: float
    """Estimated standard deviation of the group's rewards."""
    effective_rollouts: float = 0.0
    """Contribution to a denominator that counts rollouts."""


def group_signal(
    reward_G: np.ndarray,
    survival_G: np.ndarray,
    quality_G: np.ndarray,
    config: AlgorithmBase,
    *,
    normalize_by_std: bool,
    joint_GG: np.ndarray | None = None,
) -> GroupSignal:
    """Advantages and weights of one group.

    ``reward_G`` is NaN where the rollout did not survive; ``survival_G`` lies in (0, 1]; ``quality_G`` is NaN where
    nothing was predicted; ``joint_GG`` is the chance that two survive both, None where draws are independent.
    """
    assert reward_G.shape == survival_G.shape == quality_G.shape, (reward_G.shape, survival_G.shape, quality_G.shape)
    assert ((survival_G > 0) & (survival_G <= 1)).all(), survival_G
    kept_G = ~np.isnan(reward_G)
    if not kept_G.any():
        nothing_G = np.zeros(len(reward_G))
        return GroupSignal(nothing_G, nothing_G, float("nan"), float("nan"), effective_rollouts(nothing_G, config))
    if config.correction == "plain":
        return _plain(reward_G, kept_G, normalize_by_std)
    weight_G = np.where(kept_G, 1.0 / survival_G, 0.0)
    filled_G = np.where(kept_G, reward_G, 0.0)
    guess_G = np.zeros(len(reward_G))
    if config.correction == "doubly_robust":
        # Without a prediction the guess is 0: ipw's term, and with survival 1 the reward itself.
        guess_G = np.where(np.isnan(quality_G), 0.0, quality_G)
    baseline = _baseline(filled_G, weight_G, guess_G, config.self_normalized, leave_out=None)
    if config.leave_one_out and len(reward_G) > 1:
        given_GG = np.broadcast_to(weight_G, (len(weight_G), len(weight_G)))
        if joint_GG is not None:
            given_GG = kept_G * survival_G[:, None] / joint_GG
        others = np.array(
            [
                _baseline(filled_G, given_GG[i], guess_G, config.self_normalized, leave_out=i)
                for i in range(len(reward_G))
            ]
        )
        advantage_G = (1 - 1 / len(reward_G)) * (filled_G - others)
    else:
        advantage_G = filled_G - baseline
    advantage_G = _without_noise(advantage_G)
    spread = _spread(filled_G, kept_G, weight_G, baseline)
    if normalize_by_std:
        advantage_G = advantage_G / (spread + EPSILON)
    return GroupSignal(
        np.where(kept_G, advantage_G, 0.0), weight_G, baseline, spread, effective_rollouts(weight_G, config)
    )


def effective_rollouts(weight_G: np.ndarray, config: AlgorithmBase) -> float:
    """Rollouts started; the sum of the weights under ``plain`` and ``self_normalized``."""
    weighted = config.correction == "plain" or config.self_normalized
    return float(weight_G.sum()) if weighted else float(len(weight_G))


def _plain(reward_G: np.ndarray, kept_G: np.ndarray, normalize_by_std: bool) -> GroupSignal:
    survivors = reward_G[kept_G]
    advantage_G = np.zeros(len(reward_G))
    advantage_G[kept_G] = _without_noise(survivors - survivors.mean())
    if normalize_by_std:
        advantage_G /= survivors.std() + EPSILON
    weight_G = kept_G.astype(float)
    return GroupSignal(advantage_G, weight_G, float(survivors.mean()), float(survivors.std()), float(len(survivors)))


def _baseline(
    filled_G: np.ndarray, weight_G: np.ndarray, guess_G: np.ndarray, self_normalized: bool, leave_out: int | None
) -> float:
    """(1/G) sum [q + w (R - q)] over all, or over all but one."""
    rows = np.arange(len(filled_G)) != leave_out
    residual = float((weight_G * (filled_G - guess_G))[rows].sum())
    count = int(rows.sum())
    if not self_normalized:
        return float(guess_G[rows].mean()) + residual / count
    total = float(weight_G[rows].sum())
    lowest, highest = min(0.0, float(filled_G.min())), max(1.0, float(filled_G.max()))
    return float(np.clip(guess_G[rows].mean() + (residual / total if total > 0 else 0.0), lowest, highest))


def _without_noise(advantage_G: np.ndarray) -> np.ndarray:
    return np.where(np.abs(advantage_G) < FLOAT_NOISE, 0.0, advantage_G)


def _spread(filled_G: np.ndarray, kept_G: np.ndarray, weight_G: np.ndarray, baseline: float) -> float:
    survivors = filled_G[kept_G]
    if np.isin(survivors, (0.0, 1.0)).all():
        margin = 0.5 / len(filled_G)
        rate = float(np.clip(baseline, margin, 1 - margin))
        return float(np.sqrt(rate * (1 - rate)))
    return float(np.sqrt(np.average((survivors - baseline) ** 2, weights=weight_G[kept_G])))
