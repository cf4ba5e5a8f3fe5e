"""The worked examples of the types, executed; and the few rules that live in the types themselves."""

import doctest

import numpy as np
import pytest

import arrol.types
from arrol.types import (
    Completion,
    FinishReason,
    GroupRequest,
    Prompt,
    PruningDecision,
    Reason,
    Rollout,
    RolloutGroup,
    Verdict,
)
from arrol.types import RolloutId as Id


def test_docstring_examples():
    result = doctest.testmod(arrol.types)
    assert result.attempted >= 6
    assert result.failed == 0


@pytest.mark.parametrize(
    ("reason", "survived"), [("stop", True), ("length", True), ("pruned", False), ("error", False)]
)
def test_only_what_ended_by_itself_may_be_trained_on(reason, survived):
    assert FinishReason(reason).survived is survived


def rollout(index, reason=FinishReason.STOP, decision=None, **more):
    return Rollout(Id(1, 0, index), Completion((1, 2), np.zeros(2, np.float32), reason), decision, **more)


def test_a_group_reads_as_arrays():
    judged = PruningDecision(Id(1, 0, 1), 0, True, 0.25, Reason.DRAW, 0.5, 0.75)
    cut = PruningDecision(Id(1, 0, 2), 0, False, 0.5, Reason.DRAW, 0.1, 0.125)
    group = RolloutGroup(
        Prompt("p", (1,), "", ""),
        [
            rollout(0, reward=1.0),
            rollout(1, decision=judged, reward=0.0),
            rollout(2, FinishReason.PRUNED, cut),
            rollout(3, reward=1.0, dropped=True),
        ],
    )
    np.testing.assert_array_equal(group.rewards_G, [1, 0, np.nan, np.nan])
    np.testing.assert_array_equal(group.survival_G, [1, 0.25, 0.5, 1])
    np.testing.assert_array_equal(group.quality_G, [np.nan, 0.75, 0.125, np.nan])
    assert [r.is_candidate for r in group.rollouts] == [False, True, True, False]
    assert group.num_survivors == 2


def test_a_request_numbers_its_rollouts():
    request = GroupRequest(3, 1, Prompt("p", (1,), "", ""), 2)
    assert request.rollout_ids == [Id(3, 1, 0), Id(3, 1, 1)]


def test_a_group_joins_completions_to_decisions_by_their_ids():
    request = GroupRequest(3, 1, Prompt("a", (5,), "", ""), 3)
    written = [Completion((n,), np.zeros(1, np.float32), FinishReason.STOP) for n in range(3)]
    late = PruningDecision(Id(3, 1, 2), 0, True, 0.5, Reason.DRAW)
    group = RolloutGroup.of(request, written, [late])
    assert [rollout.decision for rollout in group.rollouts] == [None, None, late]
    assert [rollout.completion.token_ids for rollout in group.rollouts] == [(0,), (1,), (2,)]
    assert group.survival_G.tolist() == [1.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("reward", "success", "label", "outcome"),
    [
        (None, None, None, None),
        (0.75, None, 1.0, 0.75),
        (0.5, None, 0.0, 0.5),
        (0.1, 1.0, 1.0, 1.0),
        (3.0, 0.0, 0.0, 0.0),
        (3.0, float("nan"), None, None),
    ],
)
def test_a_label_is_read_from_the_reward_unless_the_task_tells_it(reward, success, label, outcome):
    one = rollout(0, reward=reward, success=success)
    assert (one.label, one.outcome) == (label, outcome)


def test_labels_and_outcomes_of_a_group_know_survivors_only():
    rollouts = [
        rollout(0, reward=0.4),
        rollout(1, reward=2.0, success=0.0),
        rollout(2, FinishReason.PRUNED),
        rollout(3),
        rollout(4, reward=1.0, dropped=True),
    ]
    group = RolloutGroup(Prompt("p", (1,), "", ""), rollouts)
    nan = float("nan")
    np.testing.assert_array_equal(group.labels_G, [0.0, 0.0, nan, nan, nan])
    np.testing.assert_array_equal(group.outcomes_G, [0.4, 0.0, nan, nan, nan])
    assert group.unrewarded_G.tolist() == [False, False, False, True, False]


def test_a_verdict_is_right_by_its_success_where_there_is_one():
    nan = float("nan")
    assert [Verdict(1.0, None, success=s).is_right for s in (None, 1.0, 0.0, nan)] == [True, True, False, False]
    assert not Verdict(0.5, None).is_right


def test_columns_of_a_prompt_are_no_part_of_what_it_is():
    one, other = (Prompt("p", (1,), "", "", columns={"n": n}) for n in (1, [2]))
    assert one == other
    assert hash(one) == hash(other)
