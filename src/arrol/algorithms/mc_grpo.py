"""MC-GRPO (arXiv 2601.22582): median for the mean, median absolute deviation for the spread. Pure numpy.

    A_i = (r_i - median) / spread,   the rollout at the median is left out of the update

With an odd group one rollout sits exactly at the median and teaches nothing, so G + 1 rollouts cost G updates. With 0/1
rewards the median is what the majority got, and the minority carries all signal.

Deviation: the median of |r - median| is 0 as soon as a majority agrees, always with 0/1 rewards; the authors' code then
divides by 1e-3 and multiplies by group over minority. We divide by the mean of |r - median| there, the minority's
share, which is that multiplier without the thousand.

An even group (some were stopped) has its median between two rollouts; none is left out. Legend: ``G`` rollouts.
"""

from __future__ import annotations

import numpy as np

from arrol.algorithms.advantages import EPSILON, FLOAT_NOISE, GroupSignal


def median_signal(reward_G: np.ndarray, *, normalize_by_std: bool) -> GroupSignal:
    """Signal of one group; ``reward_G`` is NaN where the rollout did not survive."""
    kept = np.flatnonzero(~np.isnan(reward_G))
    advantage_G, weight_G = np.zeros(len(reward_G)), np.zeros(len(reward_G))
    if not len(kept):
        return GroupSignal(advantage_G, weight_G, float("nan"), float("nan"))
    median = float(np.median(reward_G[kept]))
    deviation = np.abs(reward_G[kept] - median)
    spread = float(np.median(deviation))
    if spread < FLOAT_NOISE:
        spread = float(deviation.mean())
    if spread > FLOAT_NOISE:
        advantage_G[kept] = (reward_G[kept] - median) / (spread + EPSILON if normalize_by_std else 1.0)
    weight_G[kept] = 1.0
    if len(kept) % 2:
        weight_G[kept[np.argmin(deviation)]] = 0.0
    return GroupSignal(advantage_G, weight_G, median, spread, float(weight_G.sum()))
