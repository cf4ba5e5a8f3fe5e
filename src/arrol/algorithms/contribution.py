"""What rollouts contributed to an update, as rule ``auto`` learns it. Numpy only."""

from __future__ import annotations

import numpy as np

from arrol.types import Contribution, RolloutGroup


def contribution(group: RolloutGroup, advantage_G: np.ndarray, *, is_token_mean: bool) -> Contribution:
    """Advantages ``[G]``, without weights, beside a stand-in for the squared size of each rollout's gradient.

    The stand-in is the number T of its tokens, as if their gradients had the same size and were independent. The sum of
    (1 - p)^2 over sampled tokens, p their probability, makes long rollouts of a sure policy too small (docs/log.md).
    ``is_token_mean``: the loss of a rollout is a mean over its tokens, so the size is divided by T^2.
    """
    tokens_G = np.array([rollout.completion.num_tokens for rollout in group.rollouts], float)
    return Contribution(advantage_G, 1 / np.maximum(tokens_G, 1) if is_token_mean else tokens_G)
