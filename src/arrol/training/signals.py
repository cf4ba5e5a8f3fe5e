"""What a step's rollouts teach: rewards, advantages, weights and chances in the lottery, without a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from arrol.algorithms.advantages import GroupSignal
from arrol.algorithms.contribution import contribution
from arrol.algorithms.dapo import overlong_penalty
from arrol.algorithms.lesson import Lesson, Observed, lesson_signal
from arrol.algorithms.thinning import thinning_share, training_probability
from arrol.configs.method import DapoConfig
from arrol.configs.run import RunConfig
from arrol.pruning.draws import joint_survival
from arrol.types import Contribution, RolloutGroup


def step_signals(groups: Sequence[RolloutGroup], lessons: Sequence[Lesson], config: RunConfig) -> list[GroupSignal]:
    """Advantages and weights of a step's groups, in order; see :func:`arrol.algorithms.lesson.lesson_signal`."""
    return [
        lesson_signal(
            Observed(
                trained_rewards(group, config),
                group.survival_G,
                group.quality_G,
                joint_survival(group.decisions_G),
            ),
            lesson,
            config.algorithm,
            posterior=config.allocation.posterior,
        )
        for group, lesson in zip(groups, lessons, strict=True)
    ]


def training_probabilities(
    groups: Sequence[RolloutGroup], signals: Sequence[GroupSignal], config: RunConfig, *, thinning: float | None = None
) -> list[np.ndarray]:
    """float64 ``[G]`` in [0, 1] of each group: whether a rollout has a signal, times its chance in the lottery.

    ``thinning``: share of the lottery before the update, None: the config's.
    """
    is_pruned = any(rollout.survival < 1 for group in groups for rollout in group.rollouts if rollout.survived)
    share = thinning_share(config.algorithm, is_pruned=is_pruned) if thinning is None else thinning
    contributions = [signal.advantage_G * signal.weight_G for signal in signals]
    taught = np.concatenate([contribution_G[contribution_G != 0] for contribution_G in contributions])
    probability = iter(training_probability(taught, share))
    return [np.array([next(probability) if value else 0.0 for value in row_G]) for row_G in contributions]


def step_contributions(
    groups: Sequence[RolloutGroup], signals: Sequence[GroupSignal], config: RunConfig
) -> list[Contribution]:
    """What a step's rollouts contributed."""
    is_token_mean = config.algorithm.aggregation == "sequence_mean"
    return [
        contribution(group, signal.advantage_G, is_token_mean=is_token_mean)
        for group, signal in zip(groups, signals, strict=True)
    ]


def trained_rewards(group: RolloutGroup, config: RunConfig) -> np.ndarray:
    """float64 ``[G]``: the rewards that train, the overlong penalty taken off; NaN where a rollout did not survive.

    Rules that choose by the size of a reward (``pods``, ``cppo``) read these in every host.
    """
    algorithm = config.algorithm
    if not isinstance(algorithm, DapoConfig):
        return group.rewards_G
    tokens_G = np.array([rollout.completion.num_tokens for rollout in group.rollouts])
    return group.rewards_G - overlong_penalty(
        tokens_G, config.sampling.max_completion_tokens, algorithm.overlong_buffer_tokens, algorithm.overlong_penalty
    )
