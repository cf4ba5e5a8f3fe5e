"""Which rollouts TRL's asynchronous trainer gets, and with which advantages. Numpy only.

``AsyncGRPOTrainer`` divides the loss of a microbatch by the trained tokens of its samples, each counted once, and
averages the microbatches of a step. A stopped rollout is not delivered, so it is in no sum. With advantage A, weight w
(1/survival, and what a selection adds), factor t of thinning, l the clipped term of a token under advantage 1, and sums
over the rollouts of one batch of the worker:

======================  =====================  =====================================  =========================
correction              delivered              advantage of a sample                  TRL's loss estimates
======================  =====================  =====================================  =========================
``plain``, no rule      survivors              A                                      sum A l / sum T
``plain`` and a rule    rows that train        A w D / W                              sum w A l / sum w T
``ipw``                 rows that train,       A w t D / W                            sum w A l / sum w T
``doubly_robust``       thinned                the same                               the same
======================  =====================  =====================================  =========================

T is the tokens of a rollout, D = sum T over delivered rows, W = sum w T over all rows with a weight. w A l is unbiased
for the sum over all rollouts started, w T for their tokens, so the quotient is TRL's loss without pruning, up to a bias
of order 1 over the batch that every token mean of a random batch has. A microbatch that holds a part of the batch
divides by its own tokens, as TRL does without pruning. Where no rollout could be stopped, D / W is 1.

Advantages are in TRL's units: the group's standard deviation with n in its denominator, 1e-8 added.
Legend: ``G`` rollouts of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from arrol.algorithms.lesson import Lesson
from arrol.configs.host import HostConfig
from arrol.integrations.trl.batch import RewardedGroup
from arrol.integrations.trl.rules import replaces_advantages
from arrol.integrations.trl.signal import (
    GroupAdvantages,
    OutcomeValues,
    SpreadUnit,
    own_advantages,
    survivor_counts,
    thinning_factors,
)

ASYNC_SPREAD = SpreadUnit(epsilon=1e-8, is_sample=False)


class DeliveredGroup(NamedTuple):
    """A group's part of a batch."""

    rows: np.ndarray
    """int: places of the rollouts that are delivered, ascending."""
    advantage_G: np.ndarray
    """float64 ``[G]``: what TRL multiplies a rollout's tokens by."""
    signal: GroupAdvantages
    """Before thinning and the batch's denominator."""


def delivered_groups(
    groups: Sequence[RewardedGroup],
    lessons: Sequence[Lesson],
    config: HostConfig,
    values: OutcomeValues,
    *,
    seed: int,
) -> list[DeliveredGroup]:
    """What TRL gets of each group, by the table above."""
    advantages = own_advantages(groups, lessons, config, "group", values, ASYNC_SPREAD)
    share = config.thinning if replaces_advantages(config) else 0.0
    factors = thinning_factors(groups, advantages, share, seed=seed)
    tokens = [np.array([r.completion.num_tokens for r in each.group.rollouts], float) for each in groups]
    weights = [found.weight_G for found in (advantages if replaces_advantages(config) else survivor_counts(groups))]
    trains = [weight_G * factor_G > 0 for weight_G, factor_G in zip(weights, factors, strict=True)]
    if not any(trains_G.any() for trains_G in trains):  # no lesson at all: as TRL, a step without a gradient
        trains = [weight_G > 0 for weight_G in weights]
    delivered = sum(float(tokens_G[trains_G].sum()) for tokens_G, trains_G in zip(tokens, trains, strict=True))
    weighted = sum(float((tokens_G * weight_G).sum()) for tokens_G, weight_G in zip(tokens, weights, strict=True))
    scale = delivered / weighted if weighted else 1.0
    return [
        DeliveredGroup(np.flatnonzero(trains_G), found.advantage_G * factor_G * scale, found)
        for trains_G, found, factor_G in zip(trains, advantages, factors, strict=True)
    ]
