"""The buffers behind constants that no sibling tells."""

import numpy as np

from arrol.pruning.recent import HISTORY, QUALITY, RECENT_SIZE, RecentCandidates
from arrol.pruning.waves import GroupState, Waiting
from arrol.types import RolloutId


def added(recent, step, qualities, *, group=0):
    for index, quality in enumerate(qualities):
        recent.add(RolloutId(step, group, index), 0, (quality, -1.0, np.nan, 1.0))


def test_a_steps_candidates_join_when_the_next_begins_in_the_order_of_their_ids():
    recent = RecentCandidates(1)
    added(recent, 1, [0.3], group=1)
    added(recent, 1, [0.1, 0.2])
    assert len(recent.at(0)) == 0
    np.testing.assert_array_equal(recent.save()["0"][:, QUALITY], [0.1, 0.2, 0.3])
    recent.begin_step()
    np.testing.assert_array_equal(recent.at(0)[:, QUALITY], [0.1, 0.2, 0.3])


def test_a_closed_group_joins_at_once_and_only_once():
    recent = RecentCandidates(1)
    added(recent, 1, [0.1, 0.2])
    recent.close([RolloutId(1, 0, 1)])
    np.testing.assert_array_equal(recent.at(0)[:, QUALITY], [0.2])
    recent.begin_step()
    np.testing.assert_array_equal(recent.at(0)[:, QUALITY], [0.2, 0.1])


def test_it_is_bounded_and_survives_a_restart():
    recent, second = RecentCandidates(1), RecentCandidates(1)
    for step in range(3):
        added(recent, step, np.full(RECENT_SIZE // 2, step / 10))
        recent.begin_step()
    assert len(recent.at(0)) == RECENT_SIZE
    assert recent.at(0)[0, QUALITY] == 0.1
    second.load(recent.save())
    np.testing.assert_array_equal(second.at(0), recent.at(0))


def test_a_pool_becomes_candidates_with_the_population_beside_it():
    recent = RecentCandidates(1)
    added(recent, 1, [0.1, 0.2])
    recent.begin_step()
    waiting = Waiting(RolloutId(2, 5, 0), 0.0, 0.7, -0.5, None, 0)
    found = recent.candidates([(waiting, GroupState(0.4))], 0, False, exact_count=False)
    assert (found.quality_C, found.group_C, found.history_C, found.confidence_C) == (0.7, 5, 0.4, -0.5)
    np.testing.assert_array_equal(found.recent_quality_B, [0.1, 0.2])
    assert not len(recent.candidates([(waiting, GroupState(None))], 0, True, exact_count=True).recent_confidence_B)
    population = recent.population(found, 0)
    np.testing.assert_array_equal(population.quality_C, [0.1, 0.2])
    np.testing.assert_array_equal(population.history_C, recent.at(0)[:, HISTORY])
