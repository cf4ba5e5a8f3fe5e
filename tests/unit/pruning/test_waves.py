"""A group that is asked for in waves: what the record says, and what the controller makes of it."""

import doctest

import numpy as np
import pytest

import arrol.pruning.waves
from arrol.configs.method import NeverRule, NeymanRule, OracleRule, UniformRule
from arrol.pruning.controller import PruningController
from arrol.pruning.waves import GroupState, Waiting, Wave
from arrol.types import Reason, RolloutId
from lottery import GivenQuality, controller_of, event, filled_state

NOW = {"warmup_steps": 0}
RULE = UniformRule(**NOW, barrier_timeout=1000)
BATCH = NeymanRule(**NOW, scope="batch", barrier_timeout=1000)


def events(group, indices, *, quality=0.5, probe=0):
    return [event(group, index, quality, probe=probe) for index in indices]


def reasons(controller, group=0):
    return {d.rollout_id.index: d.reason for d in controller.decisions(1, group)}


def test_docstring_examples():
    result = doctest.testmod(arrol.pruning.waves)
    assert result.attempted >= 3
    assert result.failed == 0


def test_a_wave_is_past_when_its_own_are():
    group = GroupState(None)
    first, second = group.add(2), group.add(2)
    assert (first, second) == (Wave(0, 2, True), Wave(2, 2, True))
    group.reached |= {0: 1}
    assert not group.is_past(first, 0)
    group.ended.add(1)
    assert group.is_past(first, 0)
    assert not group.is_past(first, 1)
    assert not group.is_past(second, 0)
    group.stopped |= {2, 3}
    assert group.is_past(second, 0)
    assert (group.size, group.num_alive, group.alive_in(first), group.alive_in(second)) == (4, 2, 2, 0)
    assert not group.is_over
    group.ended.add(0)
    assert group.is_over


def test_who_waits_is_listed_by_wave_and_probe():
    group = GroupState(None)
    first, second = group.add(2), group.add(3)
    for index in (4, 1, 2):
        group.reached[index] = 1 + (index == 4)
        group.waiting[index] = Waiting(RolloutId(1, 0, index), 0.0, 0.5, 0.0, None, 0)
    indices = [
        [w.rollout_id.index for w in group.waiting_at(wave, probe)] for wave in (first, second) for probe in (0, 1)
    ]
    assert indices == [[1], [], [2], [4]]


def test_indices_go_on_and_the_new_wave_waits_for_its_own_alone():
    controller = controller_of(RULE)
    controller.open(1, 0, 4)
    first = controller.probed(events(0, range(4)))
    assert len(first) == 2
    controller.finished([RolloutId(1, 0, i) for i in range(4) if RolloutId(1, 0, i) not in first])
    controller.open(1, 0, 4)
    assert controller.probed(events(0, range(4, 7))) == []
    second = controller.probed(events(0, [7]))
    assert len(second) == 2
    assert {r.index for r in second} <= {4, 5, 6, 7}
    assert [d.rollout_id.index for d in controller.decisions(1, 0)] == list(range(8))


def test_an_older_wave_does_not_wait_for_a_newer_one():
    controller = controller_of(RULE)
    controller.open(1, 0, 4)
    controller.probed(events(0, range(3)))
    controller.open(1, 0, 4)
    assert len(controller.probed(events(0, [3]))) == 2
    assert sorted(reasons(controller)) == [0, 1, 2, 3]


def test_waves_have_lots_of_their_own():
    fates = []
    for seed in range(8):
        controller = controller_of(RULE, seed=seed)
        kept = []
        for first in (0, 8):
            controller.open(1, 0, 8)
            stopped = {r.index - first for r in controller.probed(events(0, range(first, first + 8)))}
            kept.append(frozenset(stopped))
        fates.append(kept[0] == kept[1])
    assert sum(fates) < 3


def test_the_floor_looks_at_the_whole_group():
    """Two of the first wave run on, so all of the second may go; where none does, two must stay."""
    for ended_well, floor in ((True, 0), (False, 2)):
        config = UniformRule(**NOW, keep_ratio=0.1, min_survival=0.01, min_survivors=2)
        survival = []
        controller = controller_of(config)
        controller.open(1, 0, 2)
        ids = [RolloutId(1, 0, 0), RolloutId(1, 0, 1)]
        controller.finished(ids) if ended_well else controller.lost(ids)
        controller.open(1, 0, 4)
        controller.probed(events(0, range(2, 6)))
        survival = [d.survival for d in controller.decisions(1, 0)]
        assert sum(survival) == pytest.approx(max(0.4, floor), abs=1e-6)


@pytest.mark.parametrize("rule", [RULE, BATCH, UniformRule(**NOW, draw="bernoulli"), OracleRule(), UniformRule()])
def test_a_wave_that_may_not_be_stopped_is_judged_and_kept_at_once(rule):
    controller = controller_of(rule)
    controller.open(1, 0, 3, prune=False)
    assert controller.probed(events(0, [1], quality=0.25)) == []
    (decision,) = controller.decisions(1, 0)
    assert (decision.keep, decision.survival, decision.reason) == (True, 1.0, Reason.RESCUE)
    assert (decision.score, decision.quality, decision.version) == (0.25, 0.25, 3)
    assert controller.tick(5000.0) == []


def test_candidates_do_not_wait_for_rollouts_that_may_not_be_stopped():
    for rule in (RULE, BATCH):
        controller = controller_of(rule)
        controller.open(1, 0, 4)
        controller.open(1, 0, 4, prune=False)
        controller.open(1, 1, 4, prune=False)
        assert len(controller.probed(events(0, range(4)))) == 2
        assert controller.probed([*events(0, range(4, 8)), *events(1, range(4))]) == []
        assert set(reasons(controller).values()) == {Reason.DRAW, Reason.RESCUE}


def test_they_are_no_part_of_the_population():
    """Nor are they drawn at a second probe."""
    controller = controller_of(UniformRule(**NOW, probe_tokens=(8, 16)))
    controller.open(1, 0, 8, prune=False)
    for probe in (0, 1):
        assert controller.probed(events(0, range(8), probe=probe)) == []
    assert {(d.probe, d.survival) for d in controller.decisions(1, 0)} == {(1, 1.0)}
    assert [len(rows) for rows in controller.save()["recent"].values()] == [0, 0]


def test_a_batch_waits_for_a_later_wave_and_is_drawn_with_it():
    controller = controller_of(BATCH)
    controller.open(1, 0, 4)
    controller.open(1, 1, 4)
    controller.probed(events(0, range(4)))
    controller.open(1, 0, 4)
    assert controller.probed(events(1, range(4))) == []
    assert controller.decisions(1, 0) == controller.decisions(1, 1) == []
    stops = controller.probed(events(0, range(4, 8)))
    assert len(stops) == 6
    assert len(controller.decisions(1, 0)) == 8


def test_a_batch_wave_whose_elders_are_decided_is_drawn_alone():
    controller = controller_of(BATCH)
    controller.open(1, 0, 4)
    controller.open(1, 1, 4)
    controller.probed([*events(0, range(4)), *events(1, range(4))])
    controller.open(1, 0, 4)
    assert controller.probed(events(0, range(4, 7))) == []
    assert len(controller.probed(events(0, [7]))) == 2
    assert {d.reason for d in controller.decisions(1, 0)} == {Reason.DRAW}


def test_a_batch_keeps_the_floor_of_a_group_with_two_waves_in_one_pool():
    config = NeymanRule(**NOW, scope="batch", keep_ratio=0.25, min_survival=0.05, min_survivors=3)
    for seed in range(10):
        controller = controller_of(config, seed=seed)
        controller.open(1, 0, 3, 0.02)
        controller.open(1, 1, 12, 0.5)
        controller.open(1, 0, 3, 0.02)
        quality = [*events(0, range(6), quality=0.01), *events(1, range(12))]
        stops = controller.probed(quality)
        assert sum(r.group == 0 for r in stops) <= 3


def test_an_empty_wave_keeps_no_candidate_waiting():
    for rule in (RULE, BATCH):
        controller = controller_of(rule)
        controller.open(1, 0, 0)
        controller.open(1, 1, 4)
        controller.open(1, 1, 0)
        assert controller.decisions(1, 0) == []
        assert len(controller.probed(events(1, range(4)))) == 2


def test_a_new_step_and_a_closed_group_begin_anew():
    controller = controller_of(RULE)
    controller.open(1, 0, 4)
    controller.finished([RolloutId(1, 0, i) for i in range(4)])
    controller.close(1, 0)
    controller.close(1, 0)
    controller.open(1, 0, 4)
    assert len(controller.probed(events(0, range(4)))) == 2
    controller.open(2, 0, 4)
    controller.open(1, 0, 4)  # of a step that is not the newest: no wave
    assert controller.decisions(1, 0) == []


def test_a_share_of_the_group_is_that_of_each_wave():
    controller = PruningController(UniformRule(**NOW), GivenQuality(), seed=1, whole_group=True)
    for first in (0, 8):
        controller.open(1, 0, 8)
        controller.finished([RolloutId(1, 0, first)])
        assert len(controller.probed(events(0, range(first + 1, first + 8)))) == 4


def test_independent_draws_of_a_later_wave_use_the_same_population():
    config = NeymanRule(**NOW, draw="bernoulli", min_survivors=0)
    state = filled_state(config, np.random.default_rng(0).random((4, 16)))
    survival = []
    for waves in ((4, 4), (8,)):
        controller = controller_of(config, state=state)
        for size in waves:
            controller.open(2, 0, size, 0.3)
        controller.probed([event(0, i, 0.1 * i, step=2) for i in range(8)])
        survival.append([(d.survival, d.keep) for d in controller.decisions(2, 0)])
    assert survival[0] == survival[1]


def test_a_rule_that_never_looks_needs_no_waves():
    controller = controller_of(NeverRule())
    controller.open(1, 0, 4)
    controller.open(1, 0, 4, prune=False)
    assert controller.probe_tokens == ()
    assert controller.decisions(1, 0) == []
