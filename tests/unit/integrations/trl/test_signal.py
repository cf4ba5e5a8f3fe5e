"""Advantages in TRL's units: TRL's own without a lottery, unbiased with one; denominators by hand."""

import itertools

import numpy as np
import pytest

from arrol.integrations.trl.batch import VerifiedGroup
from arrol.integrations.trl.signal import (
    BY_LOCAL_TOKENS,
    BY_ROWS,
    BY_TOKENS,
    BatchTotals,
    MicrobatchSizes,
    OutcomeValues,
    corrected_advantages,
    loss_factor,
)

from ..groups import group_of

REWARDS = np.array([1.0, 0.0, 0.0, 1.0, 0.0])
SURVIVAL = np.array([0.9, 0.3, 0.5, 0.7, 1.0])


def verified(keep, survival, rewards, number=0, quality=0.5, totals=None):
    group = group_of(keep, survival, rewards, number=number, quality=quality)
    total = np.where(np.array(keep, bool), rewards if totals is None else totals, np.nan)
    return VerifiedGroup(group, total)


def advantages(groups, **changes):
    options = {"estimator": "doubly_robust", "scale": "group", "exact_count": False, "values": OutcomeValues()}
    return corrected_advantages(groups, **{**options, **changes})


@pytest.mark.parametrize("estimator", ["ipw", "doubly_robust"])
@pytest.mark.parametrize("rewards", [REWARDS, np.array([0.3, -1.0, 2.0, 0.0, 0.5])])
def test_without_a_lottery_they_are_trls(estimator, rewards):
    other = np.array([0.5, 0.5, 2.0, 0.0, 1.0])
    groups = [verified([1] * 5, [1.0] * 5, rewards), verified([1] * 5, [1.0] * 5, other, number=1)]
    everything = np.concatenate([rewards, other])
    for scale, spreads in (
        ("group", [rewards.std(ddof=1), other.std(ddof=1)]),
        ("batch", [everything.std(ddof=1)] * 2),
        ("none", [1.0 - 1e-4] * 2),
    ):
        found = advantages(groups, estimator=estimator, scale=scale)
        for row, values, spread in zip(found, (rewards, other), spreads, strict=True):
            np.testing.assert_allclose(row, (values - values.mean()) / (spread + 1e-4), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("estimator", ["ipw", "doubly_robust"])
def test_their_expectation_over_all_lotteries_is_the_full_groups(estimator):
    """All 2^4 outcomes of independent draws, each with its probability; predictions are wrong on purpose."""
    expected = np.zeros(5)
    for pattern in itertools.product([0, 1], repeat=4):
        keep = np.array([*pattern, 1])
        probability = np.prod(np.where(keep == 1, SURVIVAL, 1 - SURVIVAL))
        if probability == 0:
            continue
        (row,) = advantages([verified(keep, SURVIVAL, REWARDS, quality=0.9)], estimator=estimator, scale="none")
        expected += probability * row
    np.testing.assert_allclose(expected, REWARDS - REWARDS.mean(), atol=1e-12)


def test_a_survivor_without_any_reward_leaves_its_group():
    silent = np.array([1.0, np.nan, 0.0, 1.0, 0.0])
    (row,) = advantages([VerifiedGroup(group_of([1] * 5, [1.0] * 5, silent), silent)], scale="none")
    known = np.array([1.0, 0.0, 1.0, 0.0])
    np.testing.assert_allclose(row[[0, 2, 3, 4]], known - known.mean(), atol=1e-12)
    assert row[1] == 0.0


@pytest.mark.parametrize("rewards", [np.ones(5), np.zeros(5)])
def test_a_dead_group_teaches_nothing_that_is_not_finite(rewards):
    for keep in ([1, 1, 1, 1, 1], [1, 0, 0, 1, 1], [0, 0, 0, 0, 1]):
        (row,) = advantages([verified(keep, SURVIVAL, rewards)])
        assert np.isfinite(row).all()
    (row,) = advantages([verified([1] * 5, [1.0] * 5, rewards)])
    np.testing.assert_array_equal(row, 0.0)


def test_a_group_with_nobody_left_is_zero():
    (row,) = advantages([verified([0] * 5, [0.5] * 5, REWARDS)], scale="batch")
    np.testing.assert_array_equal(row, 0.0)


def test_values_follow_earlier_rewards_by_label():
    values = OutcomeValues()
    group = group_of([1, 1, 0, 1], [0.5, 1.0, 0.5, 0.5], [1.0, 0.0, 0.0, 1.0])
    totals = np.array([3.0, -1.0, np.nan, 5.0])
    for _ in range(200):
        values.learn([VerifiedGroup(group, totals)])
    assert values.right == pytest.approx(4.0)
    assert values.wrong == pytest.approx(-1.0)
    np.testing.assert_allclose(values.predict(np.array([0.0, 0.25, 1.0, np.nan])), [-1, 0.25, 4, np.nan])


def test_totals_count_survivors_and_weigh_their_tokens():
    group = verified([1, 0, 1, 1], [0.5, 0.5, 1.0, 0.25], np.array([1.0, 0, 0, 1]))
    assert BatchTotals.of([group, group], skip_truncated=False) == BatchTotals(8, 6, 2 * (1 + 3 + 4), 2 * (2 + 3 + 16))


TOTALS = BatchTotals(rows=16, survivors=10, tokens=300.0, weighted_tokens=400.0)
LOCAL = MicrobatchSizes(started=8, present=6, tokens=90.0, weighted_tokens=150.0)


@pytest.mark.parametrize("name", BY_ROWS)
def test_a_loss_by_rows_divides_by_survivors_or_by_all_that_started(name):
    # TRL divides by the 6 rows at hand; over the window 10 of 16 survive, so 8 started rows stand for 5 survivors
    assert loss_factor(name, "plain", TOTALS, LOCAL) == pytest.approx(6 / 5)
    assert loss_factor(name, "ipw", TOTALS, LOCAL) == pytest.approx(6 / 8)


@pytest.mark.parametrize("name", BY_TOKENS + BY_LOCAL_TOKENS)
def test_a_loss_by_tokens_is_right_as_it_stands_or_divides_by_the_weighted(name):
    assert loss_factor(name, "plain", TOTALS, LOCAL) == 1.0
    wanted = 90 / 150 if name in BY_LOCAL_TOKENS else 300 / 400
    assert loss_factor(name, "doubly_robust", TOTALS, LOCAL) == pytest.approx(wanted)


def test_no_survivor_at_all_divides_by_nothing():
    empty = BatchTotals(8, 0, 0.0, 0.0)
    for name in BY_ROWS + BY_TOKENS + BY_LOCAL_TOKENS:
        for estimator in ("plain", "ipw"):
            factor = loss_factor(name, estimator, empty, MicrobatchSizes(8, 1, 0.0, 0.0))
            assert np.isfinite(factor)
