"""Advantages in TRL's units: TRL's own without a lottery, unbiased with one; denominators by hand."""

import itertools

import numpy as np
import pytest

from arrol.algorithms.allocation.selection import Selection, cppo, empty, pods, rejected, whole
from arrol.algorithms.lesson import Lesson
from arrol.algorithms.posterior import Belief
from arrol.configs.host import parse_host
from arrol.integrations.trl.batch import RewardedGroup
from arrol.integrations.trl.signal import (
    BY_LOCAL_TOKENS,
    BY_ROWS,
    BY_TOKENS,
    BatchTotals,
    MicrobatchSizes,
    OutcomeValues,
    contributions,
    loss_factor,
    own_advantages,
    survivor_counts,
    thinning_factors,
)

from ..groups import group_of

REWARDS = np.array([1.0, 0.0, 0.0, 1.0, 0.0])
SURVIVAL = np.array([0.9, 0.3, 0.5, 0.7, 1.0])


def verified(keep, survival, rewards, number=0, quality=0.5, totals=None):
    group = group_of(keep, survival, rewards, number=number, quality=quality)
    total = np.where(np.array(keep, bool), rewards if totals is None else totals, np.nan)
    return RewardedGroup(group, total, total)


def signals(groups, lessons=None, *, scale="group", **options):
    """Independent draws, unless the options say otherwise."""
    lessons = lessons or [Lesson(whole(len(each.total_G))) for each in groups]
    return own_advantages(groups, lessons, parse_host({"draw": "bernoulli", **options}), scale, OutcomeValues())


def advantages(groups, **changes):
    return [signal.advantage_G for signal in signals(groups, **changes)]


@pytest.mark.parametrize("correction", ["ipw", "doubly_robust"])
@pytest.mark.parametrize("rewards", [REWARDS, np.array([0.3, -1.0, 2.0, 0.0, 0.5])])
def test_without_a_lottery_they_are_trls(correction, rewards):
    other = np.array([0.5, 0.5, 2.0, 0.0, 1.0])
    groups = [verified([1] * 5, [1.0] * 5, rewards), verified([1] * 5, [1.0] * 5, other, number=1)]
    everything = np.concatenate([rewards, other])
    for scale, spreads in (
        ("group", [rewards.std(ddof=1), other.std(ddof=1)]),
        ("batch", [everything.std(ddof=1)] * 2),
        ("none", [1.0 - 1e-4] * 2),
    ):
        found = advantages(groups, correction=correction, scale=scale)
        for row, values, spread in zip(found, (rewards, other), spreads, strict=True):
            np.testing.assert_allclose(row, (values - values.mean()) / (spread + 1e-4), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("correction", ["ipw", "doubly_robust"])
def test_their_expectation_over_all_lotteries_is_the_full_groups(correction):
    """All 2^4 outcomes of independent draws, each with its probability; predictions are wrong on purpose."""
    expected = np.zeros(5)
    for pattern in itertools.product([0, 1], repeat=4):
        keep = np.array([*pattern, 1])
        probability = np.prod(np.where(keep == 1, SURVIVAL, 1 - SURVIVAL))
        if probability == 0:
            continue
        (row,) = advantages([verified(keep, SURVIVAL, REWARDS, quality=0.9)], correction=correction, scale="none")
        expected += probability * row
    np.testing.assert_allclose(expected, REWARDS - REWARDS.mean(), atol=1e-12)


def test_a_survivor_without_any_reward_leaves_its_group():
    silent = np.array([1.0, np.nan, 0.0, 1.0, 0.0])
    (row,) = advantages([RewardedGroup(group_of([1] * 5, [1.0] * 5, silent), silent, silent)], scale="none")
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


SILENT = np.full(5, np.nan)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize(
    "options", [*({"correction": name} for name in ("plain", "ipw", "doubly_robust")), {"algorithm": "mc_grpo"}]
)
@pytest.mark.parametrize("selection", [whole(5), pods(SILENT, 4, [0]), cppo(SILENT, 2, [0]), empty(5, "uniform")])
@pytest.mark.parametrize("keep", [[0] * 5, [1, 0, 0, 1, 1], [1] * 5])
def test_a_group_without_any_reward_teaches_nothing(keep, selection, options, scale):
    """All stopped, or the reward functions returned None for every survivor of the prompt."""
    silent = RewardedGroup(group_of(keep, SURVIVAL, [None] * 5), SILENT, SILENT)
    lessons = [Lesson(selection), Lesson(whole(5))]
    other = verified([1] * 5, [1.0] * 5, REWARDS, number=1)
    first, second = signals([silent, other], lessons, scale=scale, **options)
    np.testing.assert_array_equal(first.advantage_G, 0.0)
    assert np.isfinite(first.weight_G).all()
    assert np.isfinite(first.effective_rollouts)
    assert np.abs(second.advantage_G).min() < np.abs(second.advantage_G).max() < np.inf
    if selection.is_whole:  # its rewarded rollouts may be ignored too: truncated, where these do not count
        truncated = verified(keep, SURVIVAL, REWARDS)
        ignored = Lesson(selection, None, truncated.counted_G & ~np.isnan(truncated.total_G))
        (signal,) = signals([truncated], [ignored], scale=scale, **options)
        np.testing.assert_array_equal(signal.advantage_G, 0.0)


def test_values_follow_earlier_rewards_by_label():
    values = OutcomeValues()
    group = group_of([1, 1, 0, 1], [0.5, 1.0, 0.5, 0.5], [1.0, 0.0, 0.0, 1.0])
    totals = np.array([3.0, -1.0, np.nan, 5.0])
    for _ in range(200):
        values.learn([RewardedGroup(group, totals, totals)])
    assert values.right == pytest.approx(4.0)
    assert values.wrong == pytest.approx(-1.0)
    np.testing.assert_allclose(values.predict(np.array([0.0, 0.25, 1.0, np.nan])), [-1, 0.25, 4, np.nan])


def test_totals_count_survivors_and_weigh_their_tokens():
    group = verified([1, 0, 1, 1], [0.5, 0.5, 1.0, 0.25], np.array([1.0, 0, 0, 1]))
    both = [group, group]
    tokens = 2 * (1 + 3 + 4)
    assert BatchTotals.of(both, signals(both), 8, skip_truncated=False) == BatchTotals(8, 8, tokens, 2 * (2 + 3 + 16))
    assert BatchTotals.of(both, survivor_counts(both), 8, skip_truncated=False) == BatchTotals(8, 6, tokens, tokens)


LOCAL = MicrobatchSizes(started=8, present=6, tokens=90.0, weighted_tokens=150.0)


@pytest.mark.parametrize("name", BY_ROWS)
@pytest.mark.parametrize(("counted", "wanted"), [(10.0, 6 / 5), (16.0, 6 / 8), (4.0, 6 / 2)])
def test_a_loss_by_rows_divides_by_what_counts(name, counted, wanted):
    # TRL divides by the 6 rows at hand; where 10 of 16 count, 8 started rows stand for 5
    totals = BatchTotals(rows=16, effective_rollouts=counted, tokens=300.0, weighted_tokens=400.0)
    assert loss_factor(name, totals, LOCAL) == pytest.approx(wanted)


@pytest.mark.parametrize("name", BY_TOKENS + BY_LOCAL_TOKENS)
def test_a_loss_by_tokens_is_right_as_it_stands_or_divides_by_the_weighted(name):
    plain = LOCAL._replace(weighted_tokens=90.0)
    assert loss_factor(name, BatchTotals(16, 10.0, 300.0, 300.0), plain) == 1.0
    wanted = 90 / 150 if name in BY_LOCAL_TOKENS else 300 / 400
    assert loss_factor(name, BatchTotals(16, 16.0, 300.0, 400.0), LOCAL) == pytest.approx(wanted)


def test_no_survivor_at_all_divides_by_nothing():
    for name in BY_ROWS + BY_TOKENS + BY_LOCAL_TOKENS:
        factor = loss_factor(name, BatchTotals(8, 0.0, 0.0, 0.0), MicrobatchSizes(8, 1, 0.0, 0.0))
        assert np.isfinite(factor)


ALL = [1] * 5


def one(selection, rewards=REWARDS, *, belief=None, **changes):
    (signal,) = signals([verified(ALL, [1.0] * 5, rewards)], [Lesson(selection, belief)], **changes)
    return signal


def test_pods_has_the_advantages_of_trl_for_the_subset_alone():
    selection = pods(REWARDS, 4, [0])
    kept = REWARDS[selection.train_G]
    signal = one(selection)
    wanted = (kept - kept.mean()) / (kept.std(ddof=1) + 1e-4)
    np.testing.assert_allclose(signal.advantage_G[selection.train_G], wanted, rtol=1e-9)
    np.testing.assert_array_equal(signal.advantage_G[~selection.train_G], 0.0)
    np.testing.assert_array_equal(signal.weight_G, selection.train_G.astype(float))
    assert signal.effective_rollouts == 4.0


def test_cppo_keeps_the_advantages_of_the_whole_group():
    selection = cppo(REWARDS, 2, [0])
    signal = one(selection, correction="plain")
    wanted = (REWARDS - REWARDS.mean()) / (REWARDS.std(ddof=1) + 1e-4)
    np.testing.assert_allclose(signal.advantage_G, np.where(selection.train_G, wanted, 0.0), rtol=1e-9)
    assert signal.effective_rollouts == 2.0


@pytest.mark.parametrize("correction", ["plain", "ipw", "doubly_robust"])
def test_corrected_rejection_stands_for_the_whole_group_and_is_unbiased(correction):
    """Every choice of one wrong rollout of three is as likely; their mean is TRL's gradient of all five."""
    rare, common = REWARDS > 0.5, REWARDS < 0.5
    found = np.zeros(5)
    for kept in np.flatnonzero(common):
        factor = np.where(np.arange(5) == kept, 3.0, 1.0)
        signal = one(Selection(rare | (np.arange(5) == kept), factor, is_whole=True), correction=correction)
        assert signal.effective_rollouts == 5.0
        assert signal.weight_G.sum() == 5.0
        found += signal.advantage_G / 3
    np.testing.assert_allclose(found, (REWARDS - REWARDS.mean()) / (REWARDS.std(ddof=1) + 1e-4), rtol=1e-9)


def test_kept_rejection_is_trls_of_the_kept():
    selection = rejected(REWARDS > 0.5, REWARDS < 0.5, 2, "kept", [3])
    kept = REWARDS[selection.train_G]
    signal = one(selection)
    wanted = (kept - kept.mean()) / (kept.std(ddof=1) + 1e-4)
    np.testing.assert_allclose(signal.advantage_G[selection.train_G], wanted, rtol=1e-9)


def test_a_dropped_group_counts_nowhere():
    signal = one(empty(5, "uniform"), np.ones(5))
    assert signal.effective_rollouts == 0.0
    np.testing.assert_array_equal(signal.weight_G, 0.0)
    np.testing.assert_array_equal(signal.advantage_G, 0.0)


@pytest.mark.parametrize("scale", ["group", "none"])
def test_the_posterior_is_baseline_and_spread(scale):
    belief = Belief(3.0, 1.0)
    signal = one(whole(5), np.ones(5), belief=belief, scale=scale)
    spread = np.sqrt(0.75 * 0.25) + 1e-6 if scale == "group" else 1.0
    np.testing.assert_allclose(signal.advantage_G, 0.25 / spread, rtol=1e-9)
    assert signal.effective_rollouts == 5.0


def test_mc_grpo_leaves_the_median_rollout_out():
    signal = one(whole(5), algorithm="mc_grpo")
    assert signal.weight_G.sum() == signal.effective_rollouts == 4.0
    np.testing.assert_allclose(signal.advantage_G[REWARDS == 1.0], 1.0 / (0.4 + 1e-6), rtol=1e-9)
    np.testing.assert_array_equal(signal.advantage_G[REWARDS == 0.0], 0.0)


def test_stopped_and_silent_rollouts_leave_a_selection():
    keep, survival = [1, 1, 0, 1, 1], [0.5, 0.5, 0.5, 0.5, 1.0]
    totals = np.array([1.0, 0.0, np.nan, 1.0, np.nan])
    group = RewardedGroup(group_of(keep, survival, REWARDS), totals, totals)
    selection = pods(totals, 2, [0])
    (signal,) = signals([group], [Lesson(selection)], correction="ipw")
    np.testing.assert_array_equal(signal.weight_G, np.where(selection.train_G, 2.0, 0.0))
    assert signal.effective_rollouts == 4.0
    (signal,) = signals([group], [Lesson(whole(5))], correction="ipw")
    np.testing.assert_array_equal(signal.weight_G, [2.0, 2.0, 0.0, 2.0, 1.0])
    assert signal.effective_rollouts == 5.0


def test_thinning_keeps_the_expected_advantages_and_frees_groups_without_spread():
    """Over many seeds the mean factor is 1; a row without an advantage never trains."""
    groups = [verified([1] * 5, SURVIVAL, REWARDS), verified([1] * 5, SURVIVAL, np.zeros(5), number=1)]
    found = signals(groups, correction="ipw")
    factors = [np.concatenate(thinning_factors(groups, found, 1.0, seed=seed)) for seed in range(2000)]
    advantage = np.concatenate([each.advantage_G for each in found])
    assert (advantage[:5] != 0).all()
    assert (advantage[5:] == 0).all()
    np.testing.assert_allclose(np.mean(factors, axis=0)[:5], 1.0, atol=0.1)
    assert (np.array(factors)[:, :5] == 0).any()
    assert not np.any(np.array(factors)[:, 5:])


def test_nothing_is_thinned_without_pruned_rollouts_or_a_share():
    whole_groups = [verified([1] * 5, [1.0] * 5, REWARDS)]
    pruned_groups = [verified([1] * 5, SURVIVAL, REWARDS)]
    for groups, share in ((whole_groups, 1.0), (pruned_groups, 0.0)):
        (factor_G,) = thinning_factors(groups, signals(groups, correction="ipw"), share, seed=1)
        assert factor_G.tolist() == [1.0] * 5


def test_contributions_are_advantages_without_their_weights():
    group = verified([1, 0, 1, 1, 1], SURVIVAL, REWARDS)
    (signal,) = signals([group], correction="ipw")
    (found,) = contributions([group], [signal], "dapo")
    keep = np.array([1, 0, 1, 1, 1])
    np.testing.assert_allclose(found.advantage_G * keep / SURVIVAL, signal.advantage_G)
    assert found.advantage_G[1] == 0
    (mean,) = contributions([group], [signal], "grpo")
    tokens_G = [max(rollout.completion.num_tokens, 1) for rollout in group.group.rollouts]
    np.testing.assert_allclose(mean.size_G, found.size_G / np.square(tokens_G))
