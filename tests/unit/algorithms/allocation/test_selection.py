"""Which verified rollouts train: by hand, against brute force, and never by order of arrival."""

import itertools

import numpy as np
import pytest

from arrol.algorithms.advantages import GroupSignal
from arrol.algorithms.allocation.selection import balanced, cppo, empty, pods, rejected, selected, whole

KEY = [1, 4, 1, 0]


def mask(rows, size):
    return np.isin(np.arange(size), rows)


def test_whole_groups_stand_for_themselves_and_dropped_ones_for_nothing():
    signal = GroupSignal(np.array([1.0, -1, 0]), np.array([2.0, 1, 0]), 0.5, 0.5, 3.0)
    kept = selected(signal, whole(3))
    assert kept.advantage_G.tolist() == [1, -1, 0]
    assert (kept.weight_G.tolist(), kept.effective_rollouts) == ([2, 1, 0], 3)
    dropped = selected(signal, empty(3, "uniform"))
    assert not dropped.weight_G.any()
    assert not dropped.advantage_G.any()
    assert dropped.effective_rollouts == 0


def test_a_part_stands_for_itself_unless_it_stands_for_the_whole():
    signal = GroupSignal(np.array([3.0, -1, -1, -1]), np.array([1.0, 1, 1, 2]), 0.25, 0.4, 4.0)
    right, wrong = mask([0], 4), mask([1, 2, 3], 4)
    for baseline, factor, effective_rollouts in (("corrected", 3, 4), ("all", 1, None), ("kept", 1, None)):
        choice = rejected(right, wrong, 1, baseline, KEY)
        (row,) = np.flatnonzero(choice.train_G & wrong)
        part = selected(signal, choice)
        assert part.weight_G[[0, row]].tolist() == [1, factor * signal.weight_G[row]]
        assert (part.advantage_G != 0).tolist() == choice.train_G.tolist()
        assert part.effective_rollouts == (effective_rollouts or part.weight_G.sum())


@pytest.mark.parametrize(("wrong", "keep", "kept"), [(5, 2, 2), (2, 5, 2), (0, 3, 0), (4, 4, 4)])
def test_all_of_the_rare_kind_train_and_as_many_others_as_wanted(wrong, keep, kept):
    rare, common = mask([0, 1], 8), mask(range(2, 2 + wrong), 8)
    choice = rejected(rare, common, keep, "corrected", KEY)
    assert choice.train_G[:2].all()
    assert choice.train_G.sum() == 2 + kept
    assert choice.factor_G[choice.train_G & common].sum() == pytest.approx(wrong)  # they stand for all of their kind
    assert (choice.factor_G[:2] == 1).all()
    assert not choice.train_G[2 + wrong :].any()  # no other was verified


def test_every_wrong_rollout_is_as_likely_to_stay():
    rare, common = mask([0], 7), mask(range(1, 7), 7)
    counts = sum(rejected(rare, common, 2, "all", [0, 4, step, 0]).train_G.astype(int) for step in range(6000))
    assert counts[0] == 6000
    assert counts[1:] == pytest.approx(2000, abs=4 * np.sqrt(6000 * 2 / 9))


def largest_variance(reward, size):
    return max(np.var(reward[list(rows)]) for rows in itertools.combinations(range(len(reward)), size))


def test_pods_has_the_largest_variance_of_all_subsets():
    rng = np.random.default_rng(0)
    for _ in range(150):
        count = int(rng.integers(2, 10))
        size = int(rng.integers(2, count + 1))
        reward = rng.choice([0, 0.2, 0.5, 1.0], count) if rng.random() < 0.4 else rng.random(count)
        choice = pods(reward, size, KEY)
        assert choice.train_G.sum() == size
        assert np.var(reward[choice.train_G]) == pytest.approx(largest_variance(reward, size), abs=1e-12)


@pytest.mark.parametrize(
    ("right", "count", "size", "right_of_them"),
    [(8, 16, 8, {4}), (2, 16, 8, {2}), (15, 16, 8, {7}), (4, 7, 3, {1, 2}), (0, 4, 2, {0}), (4, 4, 2, {2})],
)
def test_pods_takes_the_most_balanced_subset_of_outcomes(right, count, size, right_of_them):
    reward = np.array([1.0] * right + [0.0] * (count - right))
    chosen = reward[pods(reward, size, KEY).train_G]
    assert len(chosen) == size
    assert chosen.sum() in right_of_them


@pytest.mark.parametrize("choose", [pods, cppo])
def test_subsets_hold_verified_rollouts_only(choose):
    reward = np.array([np.nan, 1, 0, np.nan, 0.5])
    assert choose(reward, 4, KEY).train_G.tolist() == [False, True, True, False, True]
    assert not choose(np.full(3, np.nan), 2, KEY).train_G.any()
    assert choose(np.zeros(0), 2, KEY).train_G.shape == (0,)
    assert choose(np.array([1.0]), 1, KEY).train_G.tolist() == [True]


def test_pods_measures_against_the_subset_and_cppo_against_the_group():
    reward = np.array([0.0, 0.1, 0.2, 1.0])
    assert pods(reward, 2, KEY).baseline == "kept"
    assert pods(reward, 4, KEY).baseline == "kept"
    assert cppo(reward, 2, KEY).baseline == "all"


def test_cppo_keeps_the_largest_advantages_unweighted():
    """Mean 0.4: distances 0.4 0.3 0.1 0.2 0.6."""
    reward = np.array([0.0, 0.1, 0.3, 0.6, 1.0])
    for size, rows in ((1, [4]), (2, [0, 4]), (3, [0, 1, 4]), (9, range(5))):
        choice = cppo(reward, size, KEY)
        assert np.flatnonzero(choice.train_G).tolist() == list(rows)
        assert (choice.factor_G == 1).all()
        assert not choice.is_whole


@pytest.mark.parametrize(
    ("right", "wrong", "size", "expected"), [(6, 6, 8, (4, 4)), (1, 9, 8, (1, 7)), (9, 2, 8, (6, 2)), (3, 2, 8, (3, 2))]
)
def test_balanced_gives_half_to_each_kind_as_far_as_there_are(right, wrong, size, expected):
    right_G, wrong_G = mask(range(right), right + wrong + 2), mask(range(right, right + wrong), right + wrong + 2)
    train_G = balanced(right_G, wrong_G, size, KEY).train_G
    assert ((train_G & right_G).sum(), (train_G & wrong_G).sum()) == expected
    assert not train_G[-2:].any()


def test_ties_are_broken_by_the_key():
    """Same key, same choice; other keys choose others."""
    reward, right = np.array([1.0] * 3 + [0.0] * 9), mask(range(3), 12)
    for choose in (
        lambda key: pods(reward, 4, key),
        lambda key: cppo(1 - reward[::-1], 7, key),
        lambda key: balanced(right, ~right, 4, key),
        lambda key: rejected(right, ~right, 3, "all", key),
    ):
        assert (choose(KEY).train_G == choose(KEY).train_G).all()
        assert len({tuple(choose([0, 4, step, 0]).train_G) for step in range(20)}) > 3
