"""What all rules share: counts, outcomes, and GRPO's own rule that changes nothing."""

import numpy as np
import pytest

from arrol.algorithms.allocation.rule import Outcomes, SingleWave, StepShape
from arrol.algorithms.posterior import Belief
from arrol.configs.allocation import UniformAllocation
from rollouts import prompts_from, tally_of


def test_a_prompt_is_idle_when_nothing_of_it_runs():
    tally = tally_of([0, 1, 2, 0], [3, 4, 2, 0], asked=[4, 4, 4, 0], ended=[3, 4, 4, 0])
    assert tally.is_idle_P.tolist() == [False, True, True, True]
    assert tally.is_mixed_P.tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("reward", "uniform"),
    [([1, 1], True), ([0, 0], True), ([1, 0], False), ([1, np.nan], True), ([np.nan], True), ([], True)],
)
def test_a_group_is_uniform_unless_both_outcomes_occur(reward, uniform):
    outcomes = Outcomes(np.array(reward, float), Belief(1, 1))
    assert outcomes.is_uniform is uniform
    assert not (outcomes.right_G & outcomes.wrong_G).any()


def test_uniform_asks_every_prompt_once_and_trains_on_all():
    rule = SingleWave(UniformAllocation(), StepShape(3, 5))
    assert [p.key for p in rule.draw(3, prompts_from("abcd"), None, [0])] == ["a", "b", "c"]
    assert rule.first_waves([Belief(1, 1)] * 3).tolist() == [5, 5, 5]
    tally = tally_of([0, 5, 2], [5, 5, 5])
    assert rule.next_waves(tally).shape == (2, 0)
    assert rule.wanted_prompts(tally) == 0
    assert rule.may_prune(tally).all()
    choice = rule.select(Outcomes(np.array([1, np.nan, 0.3]), Belief(1, 1)), [0])
    assert choice.train_G.all()
    assert choice.is_whole
    assert (rule.save(), rule.metrics(), rule.strata(tally.right_P, tally.verified_P)) == ({}, {}, {})
