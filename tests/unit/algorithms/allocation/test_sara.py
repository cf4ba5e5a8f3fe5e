"""SARA's test: odds against numerical integration, verdicts, waves that end, the bias of what it does."""

import numpy as np
import pytest

from arrol.algorithms.allocation.rule import StepShape
from arrol.algorithms.allocation.sara import Sara, informative_odds, verdicts
from arrol.configs.allocation import SaraAllocation
from rollouts import World, allocator_for, prompts_from, tally_of

CONFIG = SaraAllocation()


def test_the_odds_are_those_of_the_beta_posterior():
    """0 of n right: Beta(1, n + 1), P(p < x) = 1 - (1-x)^(n+1)."""
    for verified in (0, 4, 9):
        below, above = 1 - 0.9 ** (verified + 1), 0.1 ** (verified + 1)
        (odds,) = informative_odds(np.array([0]), np.array([verified]), 0.1)
        assert odds == pytest.approx((1 - below - above) / (below + above), rel=0.01)


def test_a_prompt_is_committed_to_abandoned_or_tested_again():
    """The ratio at 2 of 4 is 3.55 x 4 prior odds; at 0 of 8 the odds are .63, at 0 of 4 1.44."""
    right, verified = np.array([2, 1, 0, 0, 4, 8, 0]), np.array([4, 4, 4, 8, 4, 8, 0])
    assert verdicts(right, verified, CONFIG.model_copy(update={"error": 0.25})).tolist() == [1, 0, 0, -1, 0, -1, 0]
    assert verdicts(right, verified, CONFIG.model_copy(update={"error": 0.01})).tolist() == [0] * 7


def test_a_wave_is_the_rest_for_a_committed_prompt_a_round_for_an_open_one():
    rule = Sara(SaraAllocation(round_size=3, error=0.25), StepShape(5, 9))
    tally = tally_of([2, 0, 0, 1, 0], [4, 4, 8, 3, 7], asked=[4, 4, 8, 4, 7], waves=[1, 1, 2, 1, 2])
    assert rule.next_waves(tally).tolist() == [[0, 1], [5, 3]]
    assert rule.strata(np.array([2, 0, 0]), np.array([4, 4, 8])) == {"committed": 1, "abandoned": 1, "undecided": 1}


@pytest.mark.parametrize(("rate", "least", "most"), [(0.0, 4, 8), (1.0, 4, 8), (0.5, 12, 16)])
def test_rollouts_go_where_outcomes_differ(rate, least, most):
    allocator = allocator_for(SaraAllocation(error=0.25), group_size=16)
    world, source = World(lambda name: rate, seed=1), prompts_from("abcdef")
    groups = world.rounds(allocator, source, 1)
    assert least <= np.mean([len(group.rollouts) for group in groups]) <= most
