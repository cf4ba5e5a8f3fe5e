"""DUET's sizes: first visits alike, then by the spread of A x sum log pi and the length, within the budget."""

import numpy as np
import pytest

from arrol.algorithms.allocation.duet import Duet, worth
from arrol.algorithms.allocation.rule import Outcomes, StepShape
from arrol.algorithms.posterior import Belief
from arrol.configs.allocation import DuetAllocation
from arrol.types import Completion, FinishReason, Prompt, Rollout, RolloutGroup, RolloutId
from rollouts import tally_of

FLAT = Belief(1, 1)


def group(key, rewards, tokens, logprob=-1.0):
    rollouts = [
        Rollout(
            RolloutId(1, 0, number),
            Completion((1,) * tokens, np.full(tokens, logprob, np.float32), FinishReason.STOP),
            None,
            reward=reward,
        )
        for number, reward in enumerate(rewards)
    ]
    return RolloutGroup(Prompt(key, (1,), key, ""), rollouts)


def sizes(rule, keys):
    source = iter([Prompt(key, (1,), key, "") for key in keys]).__next__
    rule.draw(len(keys), source, lambda key: FLAT, [0])
    return rule.first_waves([FLAT] * len(keys)).tolist()


def test_sizes_follow_spread_and_length():
    """x = A sum log pi is +-4 for a of 8 tokens and +-8 for b of 16: s = 4 and 8, n in proportion to s / sqrt(L)."""
    rule = Duet(DuetAllocation(max_group=100), StepShape(2, 12))
    assert sizes(rule, "ab") == [12, 12]
    groups = [group("a", [1, 0], 8), group("b", [1, 0], 16), group("dead", [0, 0], 8)]
    rule.learn(groups, tally_of([1, 1, 0], [2, 2, 2]))
    assert rule._sums["a"].tolist() == [2, 0, 32, 16]
    assert worth(rule._sums["b"]) / worth(rule._sums["a"]) == pytest.approx(np.sqrt(2))
    assert sizes(rule, "ab") == [10, 14]
    assert sizes(rule, ["a", "dead"]) == [22, 2]
    assert sizes(rule, ["a", "new"]) == [12, 12]  # a new prompt is as the others are
    rule = Duet(DuetAllocation(max_group=100), StepShape(2, 24))
    rule.learn([group("a", [1, 0], 8), group("b", [1, 0], 16, -4.0)], tally_of([1, 1], [2, 2]))
    assert sizes(rule, "ab") == [7, 41]  # of 48, as 1 : 4 sqrt(2)


def test_a_restart_forgets_nothing_and_earlier_visits_count_half():
    rule, again = (Duet(DuetAllocation(), StepShape(2, 8)) for _ in range(2))
    for _ in range(2):
        rule.learn([group("a", [1, 0, None], 8)], tally_of([1], [2]))
    assert rule._sums["a"].tolist() == [3, 0, 48, 24]
    again.load(rule.save())
    assert sizes(again, "ab") == sizes(rule, "ab")


def test_every_prompt_has_the_same_share_of_the_gradient():
    rule = Duet(DuetAllocation(), StepShape(2, 8))
    for count in (2, 8, 20):
        selection = rule.select(Outcomes(np.zeros(count), FLAT), [0])
        assert selection.factor_G.tolist() == [7 / (count - 1)] * count
        assert selection.is_whole
