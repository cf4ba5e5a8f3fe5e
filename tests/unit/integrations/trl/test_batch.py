"""Rewards to labels and totals; rows by their tokens."""

import numpy as np
import pytest

from arrol.errors import ConfigError
from arrol.integrations.trl.batch import RewardColumns, RolloutBatch, RowTag, row_key, success_place

from ..groups import group_of


def right():
    """A wrapped reward function, here only a key."""


def style():
    """Another."""


def columns(names=("right", "style"), functions=(right, style), weights=(1.0, 2.0)):
    return RewardColumns(names, functions, weights)


def batch():
    made = RolloutBatch(
        [group_of([1, 0, 1], [0.5] * 3, [None] * 3), group_of([1, 1, 1], [1.0] * 3, [None] * 3, number=1)]
    )
    made.rewards = {right: [1.0, None, 0.0, 1.0, None, 0.0], style: [0.5, None, 0.5, None, None, 0.25]}
    return made


def test_labels_come_from_one_function_and_totals_from_all():
    first, second = batch().rewarded(columns(), "right", 0.5)
    np.testing.assert_array_equal(first.total_G, [2.0, np.nan, 1.0])
    np.testing.assert_array_equal(second.total_G, [1.0, np.nan, 0.5])
    assert [r.reward for r in first.group.rollouts] == [1.0, None, 0.0]
    assert [r.reward for r in second.group.rollouts] == [1.0, None, 0.0]
    assert first.is_pruned
    assert not second.is_pruned
    assert second.counted_G.tolist() == [True, False, True]
    assert first.counted_G.tolist() == [True, True, True]


def test_the_threshold_makes_the_label():
    made = batch()
    made.rewarded(columns(["style"], [style], [1.0]), None, 0.4)
    assert [r.reward for r in made.rollouts] == [1.0, None, 1.0, None, None, 0.0]


def test_functions_of_one_name_stay_apart():
    named = columns(["other", "reward", "reward"], [right, right, style], [0.0, 1.0, 2.0])
    first, _ = batch().rewarded(named, "other", 0.5)
    np.testing.assert_array_equal(first.total_G, [2.0, np.nan, 1.0])


def test_an_unwrapped_reward_function_is_named():
    with pytest.raises(
        ConfigError, match=r"^reward_funcs = 'length': called with stopped rollouts too; wrap it in prune_rewards$"
    ):
        batch().rewarded(columns(["right", "length"], [right, len]), "right", 0.5)


@pytest.mark.parametrize(("names", "success"), [(["a", "b"], None), (["a", "b"], "c"), (["a"], "b")])
def test_success_must_be_clear(names, success):
    with pytest.raises(ConfigError, match=r"success_reward = .*: name the one of"):
        success_place(names, success)


def test_a_name_of_two_functions_does_not_say_which_is_right():
    with pytest.raises(
        ConfigError,
        match=r"^success_reward = 'a': 2 reward functions have this name; define the one that says whether an answer "
        r"is right under a name of its own$",
    ):
        success_place(["a", "b", "a"], "a")


def test_padding_at_the_end_is_no_part_of_a_row():
    assert row_key([1, 2], [3, 0, 4, 0, 0], pad=0) == row_key((1, 2), (3, 0, 4), pad=0)
    assert row_key([1, 2], [0], pad=0) == ((1, 2), ())
    assert row_key([1], [2, 3], pad=0) != row_key([1, 2], [3], pad=0)


def test_a_row_tag_prints_little():
    assert repr(RowTag(batch(), True)) == "<survivor>"
    assert repr(RowTag(batch(), False)) == "<pruned>"
