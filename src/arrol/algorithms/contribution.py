"""What rollouts contributed to an update, as rule ``auto`` learns it. Numpy only."""

from __future__ import annotations

import numpy as np

from arrol.types import Contribution, RolloutGroup


def contribution(group: RolloutGroup, advantage_G: np.ndarray, *, is_token_mean: bool) -> Contribution:
    """Advantages ``[G]``, without weights, beside a stand-in for the squared size of each rollout's gradient.

    The stand-in is the sum of (1 - p)^2 over the sampled tokens, p their probability: the squared gradient by the
    token's own logit, tokens taken as independent. ``is_token_mean``: the loss of a rollout is a mean over its T
    tokens, so the size is divided by T^2.
    """
    written = [rollout.completion.sampler_logprobs_T for rollout in group.rollouts]
    size_G = np.array([float(np.square(1 - np.exp(logprobs_T.astype(float))).sum()) for logprobs_T in written])
    if is_token_mean:
        size_G /= np.maximum([len(logprobs_T) for logprobs_T in written], 1) ** 2.0
    return Contribution(advantage_G, size_G)
