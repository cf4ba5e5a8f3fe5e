"""What a group is to teach, and the signal that follows: selection, baseline and estimator meet here. Pure numpy.

Legend: ``G`` rollouts of a group.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from arrol.algorithms.advantages import GroupSignal, group_signal
from arrol.algorithms.allocation.selection import Selection, selected
from arrol.algorithms.mc_grpo import median_signal
from arrol.algorithms.posterior import Belief, posterior_signal
from arrol.configs.allocation import PosteriorConfig
from arrol.configs.method import AlgorithmConfig, McGrpoConfig


class Lesson(NamedTuple):
    """Says which rollouts of a group train, against which baseline."""

    selection: Selection
    belief: Belief | None = None
    """Baseline and spread come from this; None: from the rewards of the group."""


class Observed(NamedTuple):
    """A group as the estimator sees it; see :func:`arrol.algorithms.advantages.group_signal`."""

    reward_G: np.ndarray
    survival_G: np.ndarray
    quality_G: np.ndarray


def lesson_signal(
    seen: Observed, lesson: Lesson, config: AlgorithmConfig, *, posterior: PosteriorConfig, exact_count: bool
) -> GroupSignal:
    """Advantages and weights of what trains; 0 for the others."""
    selection = lesson.selection
    if selection.baseline == "all":
        return selected(_signal(seen, lesson.belief, config, posterior, exact_count), selection)
    rows = np.flatnonzero(selection.train_G)
    part = _signal(Observed(*(column[rows] for column in seen)), lesson.belief, config, posterior, exact_count)
    advantage_G, weight_G = np.zeros(len(seen.reward_G)), np.zeros(len(seen.reward_G))
    advantage_G[rows], weight_G[rows] = part.advantage_G, part.weight_G
    return selected(part._replace(advantage_G=advantage_G, weight_G=weight_G), selection)


def _signal(
    seen: Observed, belief: Belief | None, config: AlgorithmConfig, posterior: PosteriorConfig, exact_count: bool
) -> GroupSignal:
    if belief is not None:
        return posterior_signal(
            seen.reward_G,
            seen.survival_G,
            belief,
            config,
            posterior=posterior,
            normalize_by_std=config.normalize_by_std,
        )
    if isinstance(config, McGrpoConfig):
        return median_signal(seen.reward_G, normalize_by_std=config.normalize_by_std)
    return group_signal(*seen, config, normalize_by_std=config.normalize_by_std, exact_count=exact_count)
