"""Median and median absolute deviation, with the rollout at the median left out."""

import numpy as np
import pytest

from arrol.algorithms.mc_grpo import median_signal


def test_an_odd_group_by_hand():
    """Median 3, deviations 2 1 0 1 4, their median 1."""
    found = median_signal(np.array([1.0, 2, 3, 4, 7]), normalize_by_std=True)
    assert (found.baseline, found.spread) == (3, 1)
    assert found.advantage_G == pytest.approx([-2, -1, 0, 1, 4], rel=1e-5)
    assert found.weight_G.tolist() == [1, 1, 0, 1, 1]
    assert found.effective_rollouts == 4
    assert median_signal(np.array([1.0, 2, 3, 4, 7]), normalize_by_std=False).advantage_G.tolist() == [-2, -1, 0, 1, 4]


def test_in_an_even_group_no_rollout_is_left_out():
    found = median_signal(np.array([1.0, 2, 4, 7]), normalize_by_std=False)
    assert found.advantage_G.tolist() == [-2, -1, 1, 4]
    assert found.weight_G.tolist() == [1, 1, 1, 1]
    assert found.effective_rollouts == 4


@pytest.mark.parametrize(("right", "size", "advantage"), [(2, 9, 4.5), (1, 3, 3), (1, 17, 17)])
def test_with_outcomes_of_0_and_1_the_minority_carries_the_signal(right, size, advantage):
    """The mean deviation is the minority's share, so its members get 1 over it."""
    reward = np.array([1.0] * right + [0.0] * (size - right))
    for sign, each in ((1, reward), (-1, 1 - reward)):
        found = median_signal(each, normalize_by_std=True)
        assert found.advantage_G[:right] == pytest.approx(sign * advantage, rel=1e-4)
        assert not found.advantage_G[right:].any()
        assert found.weight_G.sum() == size - 1
        assert found.weight_G[:right].all()  # the one that is left out belongs to the majority


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
def test_constant_rewards_teach_nothing(size, value):
    found = median_signal(np.full(size, value), normalize_by_std=True)
    assert not found.advantage_G.any()
    assert found.weight_G.sum() == size - size % 2
    assert np.isfinite(found.baseline)


def test_half_right_of_an_even_group_is_balanced():
    found = median_signal(np.array([1.0, 0, 1, 0]), normalize_by_std=True)
    assert found.advantage_G == pytest.approx([1, -1, 1, -1], rel=1e-5)


def test_only_survivors_have_a_median():
    """Of the rest, 0 1 5 remain: the 1 is left out."""
    found = median_signal(np.array([np.nan, 0, 5, np.nan, 1]), normalize_by_std=False)
    assert found.advantage_G.tolist() == [0, -1, 4, 0, 0]
    assert found.weight_G.tolist() == [0, 1, 1, 0, 0]
    nothing = median_signal(np.full(3, np.nan), normalize_by_std=True)
    assert not nothing.weight_G.any()
    assert nothing.effective_rollouts == 0
    assert np.isnan(nothing.baseline)
