"""Lottery after the reward, before the update: rollouts that teach next to nothing rarely cost an update. Pure numpy.

    pi_i = min(1, |A_i w_i| / (share * rms)),   rms over the rollouts of the step that may train

A rollout with advantage A and weight w trains with probability pi, and its weight is then divided by pi. Given the
rewards of the step, the expected gradient is that of training on all of them; denominators stay those of all of them.
Under ``doubly_robust`` this frees the survivors of groups without spread, whose advantages are small but not 0.

Survival proportional to the contribution has the least variance at a given cost (Neyman); here it acts only below a
threshold, so that clear lessons keep weight 1. Legend: ``R`` rollouts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from arrol.configs.method import AlgorithmBase
from arrol.types import RolloutId

THINNING_STREAM = 7
"""Second word of the key."""


def thinning_share(config: AlgorithmBase, *, is_pruned: bool) -> float:
    """``share`` of a step; ``is_pruned``: a rollout of it was stopped."""
    return config.thinning if (is_pruned or config.thins == "always") and not config.kl_coef else 0.0


def training_probability(contribution_R: np.ndarray, share: float) -> np.ndarray:
    """float64 ``[R]`` in [0, 1]: probability of training, from advantage times weight.

    ``share`` of the root mean square is the contribution from which a rollout always trains; 0 trains all.
    """
    size_R = np.abs(np.asarray(contribution_R, float))
    threshold = share * float(np.sqrt(np.mean(size_R**2))) if len(size_R) else 0.0
    return np.minimum(1.0, size_R / threshold) if threshold > 0 else np.ones(len(size_R))


def thinned(contribution_R: np.ndarray, ids: Sequence[RolloutId], share: float, *, seed: int) -> np.ndarray:
    """float64 ``[R]``: factor of each weight, 1/probability for a rollout that trains and 0 for one that does not.

    Each rollout has a random number of its own, keyed by ``(seed, id)``.
    """
    probability_R = training_probability(contribution_R, share)
    uniform_R = np.array([np.random.default_rng([seed, THINNING_STREAM, *i]).random() for i in ids]).reshape(-1)
    return np.where(uniform_R < probability_R, 1.0 / np.maximum(probability_R, 1e-300), 0.0)
