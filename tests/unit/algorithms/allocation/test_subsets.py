"""PODS and CPPO behind the interface: full groups, graded rewards, a part that trains."""

import numpy as np
import pytest

from arrol.algorithms.allocation.rule import Outcomes, StepShape
from arrol.algorithms.allocation.subsets import Subset
from arrol.algorithms.posterior import Belief
from arrol.configs.allocation import CppoAllocation, PodsAllocation


@pytest.mark.parametrize(("rule", "config"), [(Subset, PodsAllocation), (Subset, CppoAllocation)])
def test_a_full_group_is_asked_and_a_part_of_it_trains(rule, config):
    built = rule(config(train_size=3), StepShape(2, 8))
    assert built.first_waves([Belief(1, 1)] * 2).tolist() == [8, 8]
    assert built.is_single_wave
    assert not built.needs_binary
    choice = built.select(Outcomes(np.linspace(0, 1, 8), Belief(1, 1)), [0])
    assert choice.train_G.sum() == 3
    assert choice.reason == "surplus"


def test_they_differ_where_the_extremes_lie_on_one_side():
    """Mean 0.59: both that are far from it lie above. Largest variance takes an end each all the same."""
    outcomes = Outcomes(np.array([0.4, 0.45, 0.5, 0.5, 0.5, 0.5, 0.9, 1.0]), Belief(1, 1))
    shape = StepShape(1, 8)
    by_variance = Subset(PodsAllocation(train_size=2), shape).select(outcomes, [0]).train_G
    by_advantage = Subset(CppoAllocation(train_size=2), shape).select(outcomes, [0]).train_G
    assert np.flatnonzero(by_variance).tolist() == [0, 7]
    assert np.flatnonzero(by_advantage).tolist() == [6, 7]
