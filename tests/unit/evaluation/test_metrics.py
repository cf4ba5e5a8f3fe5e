"""Intervals, pass@k and dead groups against counts by hand."""

from itertools import combinations

import numpy as np
import pytest

from arrol.evaluation.metrics import accuracy_with_interval, dead_group_frac, pass_at_k


def test_one_sample_per_prompt_takes_wilsons_interval():
    reward_PG = np.array([1.0] * 30 + [0.0] * 70)[:, None]
    accuracy, low, high = accuracy_with_interval(reward_PG)
    assert accuracy == pytest.approx(0.3)
    assert (low, high) == pytest.approx((0.2189, 0.3958), abs=5e-4)


def test_several_samples_take_a_bootstrap_over_prompts():
    reward_PG = np.repeat(np.array([[1.0], [0.0]] * 50), 8, axis=1)  # prompts are all right or all wrong
    accuracy, low, high = accuracy_with_interval(reward_PG)
    assert accuracy == 0.5
    assert 0.38 < low < 0.43  # 100 independent prompts, not 800 independent samples
    assert 0.57 < high < 0.62
    assert accuracy_with_interval(reward_PG) == (accuracy, low, high)


def test_graded_rewards_keep_their_mean():
    assert accuracy_with_interval(np.array([[0.25], [0.75]]))[0] == 0.5


@pytest.mark.parametrize("right", range(6))
@pytest.mark.parametrize("k", range(1, 6))
def test_pass_at_k_counts_the_subsets_with_a_right_one(right, k):
    row = np.array([1.0] * right + [0.0] * (5 - right))
    subsets = list(combinations(row, k))
    expected = sum(max(subset) > 0 for subset in subsets) / len(subsets)
    assert pass_at_k(row[None], k) == pytest.approx(expected)


@pytest.mark.parametrize("right", range(6))
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_dead_groups_are_the_subsets_of_one_outcome(right, size):
    row = np.array([1.0] * right + [0.0] * (5 - right))
    subsets = list(combinations(row, size))
    expected = sum(min(subset) == max(subset) for subset in subsets) / len(subsets)
    assert dead_group_frac(row[None], size) == pytest.approx(expected if size > 1 else 1.0)


def test_prompts_are_averaged():
    reward_PG = np.array([[1.0, 0.0], [0.0, 0.0]])
    assert pass_at_k(reward_PG, 2) == 0.5
    assert dead_group_frac(reward_PG, 2) == 0.5


def test_more_samples_than_there_are_is_our_mistake():
    for measure in (pass_at_k, dead_group_frac):
        with pytest.raises(AssertionError):
            measure(np.zeros((1, 2)), 3)
