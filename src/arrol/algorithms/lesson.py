"""What a group is to teach, and the signal that follows: selection, baseline and correction meet here. Pure numpy.

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
    ignored_G: np.ndarray | None = None
    """bool ``[G]``: excluded from the group's statistics and from training (failed ones, truncated ones where these do
    not count, ones without a reward); None: none is."""
    unrewarded_G: np.ndarray | None = None
    """bool ``[G]``: of :attr:`ignored_G`, those without a reward; None: none is."""

    @property
    def excluded_G(self) -> np.ndarray:
        """bool ``[G]``: :attr:`ignored_G`, spelled out."""
        return np.zeros(len(self.selection.train_G), bool) if self.ignored_G is None else self.ignored_G

    @property
    def left_out_G(self) -> list[str]:
        """Why each rollout does not train; empty where it does, or would if it were verified. ``G`` strings."""
        train_G, reason = self.selection.train_G, self.selection.reason
        unrewarded_G = np.zeros(len(train_G), bool) if self.unrewarded_G is None else self.unrewarded_G
        return [
            "unrewarded" if unrewarded else "truncated" if excluded else "" if trains else reason
            for trains, excluded, unrewarded in zip(train_G, self.excluded_G, unrewarded_G, strict=True)
        ]


def without_unrewarded(lesson: Lesson, unrewarded_G: np.ndarray) -> Lesson:
    """The lesson without the survivors that have no reward: neither they nor their absence counts."""
    if not unrewarded_G.any():
        return lesson
    return lesson._replace(ignored_G=lesson.excluded_G | unrewarded_G, unrewarded_G=unrewarded_G)


class Observed(NamedTuple):
    """A group as the correction sees it; see :func:`arrol.algorithms.advantages.group_signal`."""

    reward_G: np.ndarray
    survival_G: np.ndarray
    quality_G: np.ndarray
    joint_GG: np.ndarray | None = None

    def of(self, rows: np.ndarray) -> Observed:
        """Of some of the rollouts."""
        joint_GG = None if self.joint_GG is None else self.joint_GG[np.ix_(rows, rows)]
        return Observed(self.reward_G[rows], self.survival_G[rows], self.quality_G[rows], joint_GG)


def lesson_signal(
    seen: Observed, lesson: Lesson, config: AlgorithmConfig, *, posterior: PosteriorConfig
) -> GroupSignal:
    """Advantages and weights of what trains; 0 for the others."""
    selection = lesson.selection
    seen_G = ~lesson.excluded_G
    if selection.baseline == "kept":
        # No stopped rollout is among the kept ones, so the weighted sum is divided by its weights.
        seen_G, config = seen_G & selection.train_G, config.model_copy(update={"self_normalized": True})
    rows = np.flatnonzero(seen_G)
    part = _signal(seen.of(rows), lesson.belief, config, posterior)
    advantage_G, weight_G = np.zeros(len(seen.reward_G)), np.zeros(len(seen.reward_G))
    advantage_G[rows], weight_G[rows] = part.advantage_G, part.weight_G
    return selected(part._replace(advantage_G=advantage_G, weight_G=weight_G), selection)


def _signal(seen: Observed, belief: Belief | None, config: AlgorithmConfig, posterior: PosteriorConfig) -> GroupSignal:
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
    reward_G, survival_G, quality_G, joint_GG = seen
    return group_signal(
        reward_G, survival_G, quality_G, config, normalize_by_std=config.normalize_by_std, joint_GG=joint_GG
    )
