"""Contributions: the size by hand, for a sum and for a mean over tokens."""

import numpy as np

from arrol.algorithms.contribution import contribution
from arrol.types import Completion, FinishReason, Prompt, Rollout, RolloutGroup, RolloutId


def group_of(*probabilities):
    """One rollout per list of token probabilities."""
    rollouts = []
    for index, chosen in enumerate(probabilities):
        logprobs_T = np.log(np.array(chosen, np.float32))
        completion = Completion((0,) * len(chosen), logprobs_T, FinishReason.STOP)
        rollouts.append(Rollout(RolloutId(1, 0, index), completion, None, 1.0))
    return RolloutGroup(Prompt("key", (1,), "", ""), rollouts)


def test_the_size_is_the_number_of_tokens():
    found = contribution(group_of([0.5, 0.5], [1.0], []), np.array([1.0, -1.0, 0.0]), is_token_mean=False)
    assert found.size_G.tolist() == [2.0, 1.0, 0.0]
    np.testing.assert_array_equal(found.advantage_G, [1.0, -1.0, 0.0])


def test_a_mean_over_tokens_divides_by_the_squared_length():
    found = contribution(group_of([0.5] * 4, []), np.zeros(2), is_token_mean=True)
    assert found.size_G.tolist() == [0.25, 1.0]  # the second has no tokens and no advantage
