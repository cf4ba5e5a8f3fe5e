"""The controller event by event; what holds for any events is in tests/property."""

import numpy as np
import pytest

from arrol.configs.host import parse_host
from arrol.configs.method import AutoRule, ExtremesRule, NeverRule, NeymanRule, OracleRule, PaperRule, UniformRule
from arrol.pruning.controller import MIN_RECENT, PruningController
from arrol.pruning.recent import RECENT_SIZE
from arrol.types import (
    Completion,
    Contribution,
    FinishReason,
    ProbeEvent,
    Prompt,
    Reason,
    Rollout,
    RolloutGroup,
    RolloutId,
)
from lottery import GivenQuality, all_decisions, controller_of, event, events_of, filled_state, open_groups, play

NOW = {"warmup_steps": 0}
WAITS = UniformRule(**NOW, barrier_timeout=5)
ALONE = UniformRule(**NOW, draw="bernoulli", min_survivors=0)


def test_the_barrier_waits_for_the_last_sibling():
    controller = controller_of(WAITS)
    controller.open(1, 0, 4)
    for index in range(3):
        assert controller.probed([event(0, index, 0.5)]) == []
        assert controller.decisions(1, 0) == []
    stops = controller.probed([event(0, 3, 0.5)])
    assert len(stops) == 2
    assert [d.keep for d in controller.decisions(1, 0)].count(False) == 2


def test_an_ended_sibling_completes_the_barrier():
    controller = controller_of(WAITS)
    controller.open(1, 0, 5)
    controller.probed([event(0, index, 0.5) for index in range(4)])
    stops = controller.finished([RolloutId(1, 0, 4)])
    assert len(stops) == 2
    assert RolloutId(1, 0, 4) not in stops
    assert len(controller.decisions(1, 0)) == 4


def test_a_lost_sibling_completes_the_barrier_and_is_not_left():
    controller = controller_of(UniformRule(**NOW, min_survivors=3))
    controller.open(1, 0, 5)
    controller.probed([event(0, index, 0.5) for index in range(4)])
    assert len(controller.lost([RolloutId(1, 0, 4)])) == 1
    assert controller.finished([RolloutId(1, 0, 4)]) == []


def test_one_that_ends_while_it_waits_is_no_candidate():
    controller = controller_of(WAITS)
    controller.open(1, 0, 5)
    controller.probed([event(0, index, 0.5) for index in range(4)])
    controller.finished([RolloutId(1, 0, 0)])
    assert controller.decisions(1, 0) == []
    controller.probed([event(0, 4, 0.5)])
    assert [d.rollout_id.index for d in controller.decisions(1, 0)] == [1, 2, 3, 4]


def test_batch_scope_waits_for_every_group():
    controller = controller_of(NeymanRule(**NOW, scope="batch"))
    open_groups(controller, np.full((2, 4), 0.5))
    assert controller.probed([event(0, index, 0.5) for index in range(4)]) == []
    assert controller.decisions(1, 0) == []
    assert len(controller.probed([event(1, index, 0.5) for index in range(4)])) == 4


def test_bernoulli_decides_at_once():
    controller = controller_of(ALONE)
    controller.open(1, 0, 8)
    for index in range(8):
        controller.probed([event(0, index, 0.5)])
        assert len(controller.decisions(1, 0)) == index + 1


def test_a_decision_says_everything():
    controller = controller_of(WAITS)
    play(controller, [[0.25, 0.75, 0.5, 0.5]])
    decision = controller.decisions(1, 0)[1]
    assert decision.rollout_id == RolloutId(1, 0, 1)
    assert (decision.probe, decision.survival, decision.reason) == (0, 0.5, Reason.DRAW)
    assert (decision.score, decision.quality, decision.version) == (0.75, 0.75, 3)


def test_features_are_scored_by_the_estimator_and_scores_are_taken():
    controller = controller_of(WAITS)
    controller.open(1, 0, 4)
    events = [ProbeEvent(RolloutId(1, 0, index), 0, np.float32([0.1 * index])) for index in range(3)]
    controller.probed([*events, event(0, 3, 0.875)])
    np.testing.assert_allclose([d.score for d in controller.decisions(1, 0)], [0, 0.1, 0.2, 0.875], atol=1e-7)


def test_the_unscored_are_kept_and_the_others_drawn_among_themselves():
    controller = controller_of(UniformRule(**NOW, min_survivors=0))
    stopped = play(controller, [[0.5, np.nan, 0.5, np.nan, 0.5, 0.5]])
    decisions = controller.decisions(1, 0)
    assert [d.reason for d in decisions].count(Reason.NO_SCORE) == 2
    assert {d.rollout_id.index for d in decisions if d.reason is Reason.NO_SCORE} == {1, 3}
    assert len(stopped) == 2


def test_unexpected_events_are_ignored():
    controller = controller_of(WAITS)
    controller.open(1, 0, 2)
    assert controller.probed([event(7, 0, 0.5), event(0, 0, 0.5, step=9)]) == []
    assert controller.finished([RolloutId(9, 9, 9)]) == []
    controller.finished([RolloutId(1, 0, 0)])
    assert controller.probed([event(0, 0, 0.5)]) == []
    assert controller.decisions(1, 0) == []


@pytest.mark.parametrize("rule", [NeverRule(observe=True, **NOW), OracleRule(**NOW)])
def test_rules_that_never_stop_still_record(rule):
    controller = controller_of(rule)
    assert play(controller, np.full((2, 4), 0.5)) == set()
    assert {(d.reason, d.survival, d.quality) for d in all_decisions(controller, 2)} == {(Reason.RULE_NEVER, 1.0, 0.5)}


def test_an_idle_rule_asks_for_no_probe():
    assert controller_of(NeverRule()).probe_tokens == ()
    assert controller_of(NeverRule(observe=True, probe_tokens=(3,))).probe_tokens == (3,)
    assert controller_of(UniformRule(probe_tokens=(3, 5))).probe_tokens == (3, 5)


def test_the_deadline_draws_alone_and_says_so():
    controller = controller_of(WAITS)
    controller.open(1, 0, 8)
    controller.tick(100.0)
    controller.probed([event(0, index, 0.5) for index in range(4)])
    assert controller.tick(104.9) == []
    assert controller.decisions(1, 0) == []
    controller.tick(105.0)
    assert {d.reason for d in controller.decisions(1, 0)} == {Reason.DEADLINE}
    controller.probed([event(0, index, 0.5) for index in range(4, 8)])
    assert [d.reason for d in controller.decisions(1, 0)] == [Reason.DEADLINE] * 4 + [Reason.DRAW] * 4


def test_a_hosts_clock_may_start_anywhere():
    """Monotonic seconds of a server that has been up for days, and a pause for training between two steps."""
    controller = controller_of(WAITS)
    for step, now in ((1, 1e6), (2, 2e6)):
        controller.open(step, 0, 4)
        controller.probed([event(0, 0, 0.5, step=step)])
        assert controller.tick(now) == []
        assert controller.decisions(step, 0) == []
        controller.tick(now + 5)
        assert len(controller.decisions(step, 0)) == 1


def test_the_next_probe_is_a_deadline():
    """Rollout 0 reaches probe 1 while it waits at probe 0: it is drawn there alone, and goes on only if it was kept."""
    config = UniformRule(**NOW, probe_tokens=(2, 4), keep_ratio=0.25, min_survivors=0, barrier_timeout=100)
    fates = set()
    for seed in range(20):
        controller = controller_of(config, seed=seed)
        controller.open(1, 0, 2)
        controller.probed([event(0, 0, 0.5)])
        stops = controller.probed([event(0, 0, 0.5, probe=1)])
        (decision,) = controller.decisions(1, 0)
        assert (decision.probe, decision.reason, decision.survival) == (0, Reason.DEADLINE, 0.5)
        assert stops == ([] if decision.keep else [RolloutId(1, 0, 0)])
        fates.add(decision.keep)
        controller.finished([RolloutId(1, 0, 1)])
        assert controller.decisions(1, 0)[0].probe == int(decision.keep)
        last = controller.decisions(1, 0)[0]
        before = last.previous
        assert (before is not None and before.probe == 0 and before.previous is None) == decision.keep
    assert fates == {True, False}


def test_the_floor_of_independent_draws_is_recorded():
    for seed in range(20):
        controller = controller_of(UniformRule(**NOW, draw="bernoulli", keep_ratio=0.1, min_survivors=8), seed=seed)
        stopped = play(controller, np.full((1, 16), 0.5))
        floor = [d for d in controller.decisions(1, 0) if d.reason is Reason.FLOOR]
        assert len(stopped) == 8
        assert all(d.keep and d.survival == 1 for d in floor)
        assert len(floor) >= 1


def test_an_empty_buffer_means_uniform_without_siblings():
    config = PaperRule(**NOW, min_survivors=0)
    few = np.random.default_rng(0).random((1, MIN_RECENT - 1))
    for state, is_uniform in (
        (None, True),
        (filled_state(config, few), True),
        (filled_state(config, [*few, [0.5]]), False),
    ):
        controller = controller_of(config, state=state)
        play(controller, [[0.1, 0.9]], step=2)
        survival = [d.survival for d in controller.decisions(2, 0)]
        assert (survival == [0.5, 0.5]) == is_uniform


def test_the_buffer_is_that_of_earlier_steps_and_bounded():
    controller = controller_of(ALONE)
    play(controller, np.full((2, 8), 0.3), step=1)
    np.testing.assert_array_equal(controller.save()["recent"]["0"][:, 0], np.full(16, 0.3))
    for step in range(2, 70):
        play(controller, np.full((2, 16), step / 100), step=step)
    recent = controller.save()["recent"]["0"]
    assert recent.shape == (RECENT_SIZE, 4)
    assert recent[-1, 0] == 0.69
    assert recent[0, 0] == 0.38


def test_finished_groups_of_other_steps_are_forgotten_and_running_ones_are_not():
    controller = controller_of(WAITS)
    play(controller, np.full((2, 4), 0.5))
    controller.finished([RolloutId(1, 0, index) for index in range(4)])
    controller.open(2, 0, 4)
    assert controller.decisions(2, 0) == []
    with pytest.raises(KeyError):
        controller.decisions(1, 0)
    assert len(controller.decisions(1, 1)) == 4


def test_a_closed_group_is_forgotten_and_teaches_those_that_come_later():
    controller = controller_of(WAITS)
    play(controller, np.full((2, 4), 0.5))
    controller.close(1, 0)
    assert controller.decision(RolloutId(1, 0, 0)) is None
    assert controller.decision(RolloutId(1, 1, 0)) is not None
    assert len(controller.save()["recent"]["0"]) == 8
    controller.open(1, 2, 4)
    controller.close(1, 1)
    assert len(controller.save()["recent"]["0"]) == 8


def test_two_controllers_share_nothing():
    first, second = controller_of(WAITS), controller_of(WAITS)
    play(first, np.full((1, 8), 0.5))
    assert second.decision(RolloutId(1, 0, 0)) is None
    assert len(second.save()["recent"]["0"]) == 0
    stops = [play(controller_of(WAITS, seed=seed), np.full((1, 16), 0.5)) for seed in (0, 0, 1)]
    assert stops[0] == stops[1] != stops[2]


def test_events_of_both_probes_in_one_call():
    config = UniformRule(**NOW, probe_tokens=(2, 4), draw="bernoulli", min_survivors=0)
    controller = controller_of(config)
    open_groups(controller, np.full((1, 4), 0.5))
    stopped = set(controller.probed(events_of(np.full((1, 4), 0.5))))
    later = [e for e in events_of(np.full((1, 4), 0.5), probe=1) if e.rollout_id not in stopped]
    controller.probed([*later, *later])
    assert [d.probe for d in controller.decisions(1, 0)] == [int(RolloutId(1, 0, i) not in stopped) for i in range(4)]
    assert 0 < len(later) < 4


def test_a_certain_stop_is_recorded_with_a_survival_above_zero():
    controller = controller_of(ExtremesRule(**NOW))
    assert len(play(controller, [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]])) == 4
    assert all(0 < d.survival <= 1 for d in controller.decisions(1, 0))


def test_a_later_probe_without_siblings_still_follows_the_rule():
    """On a hard prompt the one that has come to look right passes more easily than the one that has not."""
    config = NeymanRule(**NOW, probe_tokens=(2, 4), draw="bernoulli", min_survivors=2)
    state = filled_state(config, np.random.default_rng(0).random((4, 16)), history=[0.1] * 4)
    for seed in range(20):
        controller = controller_of(config, seed=seed, state=state)
        open_groups(controller, np.full((1, 8), 0.3), step=2, history=[0.1])
        stopped = set(controller.probed(events_of(np.full((1, 8), 0.3), step=2)))
        alive = [index for index in range(8) if RolloutId(2, 0, index) not in stopped][:2]
        for index, score in zip(alive, (0.05, 0.9), strict=True):
            controller.probed([event(0, index, score, step=2, probe=1)])
        low, high = (d for d in controller.decisions(2, 0) if d.probe == 1)
        if Reason.FLOOR not in (low.reason, high.reason):
            assert high.survival > 1.5 * low.survival
            return
    pytest.fail("the floor decided every time")


def test_paying_for_anothers_floor_leaves_the_product_above_its_own():
    """At the second probe the small group turns out dead and needs two; the large one pays, not below 0.2 in all."""
    config = NeymanRule(
        **NOW, scope="batch", probe_tokens=(2, 4), keep_ratio=0.2, probe_keep_ratios=(0.6, 0.2), min_survival=0.2
    )
    first, second = [[0.5] * 4, [0.5] * 24], [[0.01] * 4, [0.5] * 24]
    for seed in range(5):
        controller = controller_of(config, seed=seed)
        open_groups(controller, first, history=[0.02, 0.5])
        stopped = set(controller.probed(events_of(first)))
        controller.probed([e for e in events_of(second, probe=1) if e.rollout_id not in stopped])
        assert min(d.survival for d in all_decisions(controller, 2)) >= 0.2 - 1e-9
        assert sum(d.keep for d in controller.decisions(1, 0)) >= 2


@pytest.mark.parametrize("rule", ["uniform", "confidence", "extremes", "balanced", "neyman"])
@pytest.mark.parametrize("early", [0, 1, 3])
def test_a_share_of_the_group_counts_who_ended_early(rule, early):
    config = parse_host({"rule": rule, **NOW, "probe_tokens": 16, "draw": "systematic", "correction": "plain"}).pruning
    controller = PruningController(config, GivenQuality(), seed=3, whole_group=True)
    rng = np.random.default_rng(early)
    for step in (1, 2):
        controller.open(step, 0, 8)
        controller.finished([RolloutId(step, 0, index) for index in range(early)])
        events = [event(0, i, float(rng.random()), step=step, confidence=-float(rng.random())) for i in range(early, 8)]
        assert len(controller.probed(events)) == 4
        survival = [decision.survival for decision in controller.decisions(step, 0)]
        assert sum(survival) == pytest.approx(4 - early, abs=1e-6)


def test_a_share_of_the_group_over_two_probes():
    config = UniformRule(**NOW, probe_tokens=(4, 8), probe_keep_ratios=(0.75, 0.5))
    controller = PruningController(config, GivenQuality(), seed=1, whole_group=True)
    controller.open(1, 0, 8)
    controller.finished([RolloutId(1, 0, 0)])
    first = controller.probed([event(0, i, 0.5) for i in range(1, 8)])
    assert len(first) == 2
    alive = [i for i in range(1, 8) if RolloutId(1, 0, i) not in first]
    controller.finished([RolloutId(1, 0, alive[0])])
    assert len(controller.probed([event(0, i, 0.5, probe=1) for i in alive[1:]])) == 2


def test_your_own_rule_replaces_the_config_s_at_every_probe():
    """It says the survival through a probe, so what is left at the second is conditional; the floor holds."""
    config = UniformRule(**NOW, probe_tokens=(2, 4), min_survivors=0, min_survival=0.2, keep_ratio=0.3)
    through = iter([[1.0, 0.8, 0.8, 0.1], [0.5, 0.4]])

    def own(candidates):
        return np.resize(next(through), len(candidates.quality_C))

    controller = PruningController(config, GivenQuality(), seed=1, survival=own)
    play(controller, np.full((1, 4), 0.5), probes=1)
    assert [d.survival for d in controller.decisions(1, 0)] == pytest.approx([1.0, 0.8, 0.8, 0.2])
    left = {d.rollout_id.index: d.survival for d in controller.decisions(1, 0) if d.keep}
    controller.probed([event(0, index, 0.5, probe=1) for index in left])
    expected = np.minimum(np.resize([0.5, 0.4], len(left)), [*left.values()])
    assert [d.survival for d in controller.decisions(1, 0) if d.probe == 1] == pytest.approx(expected.tolist())


def test_auto_keeps_all_and_says_so_until_it_has_learnt():
    controller = controller_of(AutoRule(**NOW, probe_tokens=(2,)))
    assert play(controller, np.full((2, 4), 0.5)) == set()
    assert {d.reason for d in all_decisions(controller, 2)} == {Reason.RULE_NEVER}
    assert controller.metrics()["pruning/auto/groups"] == 0
    assert controller_of(UniformRule(**NOW)).metrics() == {}


@pytest.mark.parametrize("draw", ["systematic", "bernoulli"])
def test_auto_stops_unlike_groups_unlike_often_and_repeats_after_a_restart(draw):
    """Half of the prompts never succeed: their rollouts are stopped most of the time, and the others never."""
    config = AutoRule(**NOW, probe_tokens=(2,), draw=draw, min_survivors=1)
    quality = np.repeat([[0.01], [0.5]], 8, axis=0) * np.ones((16, 8))
    history, controller, state = quality[:, 0].tolist(), controller_of(config), None
    for step in range(1, 9):
        stopped = play(controller, quality, step=step, history=history)
        learn_from(controller, step, quality, stopped)
        if step == 6:
            state = controller.save()
    assert stopped
    assert all(rollout_id.group < 8 for rollout_id in stopped)
    second = controller_of(config, state=state)
    for step in (7, 8):
        again = play(second, quality, step=step, history=history)
        learn_from(second, step, quality, again)
    assert again == stopped
    assert second.metrics() == controller.metrics()


def learn_from(controller, step, quality, stopped):
    """Rollouts of 50 tokens, right by a coin where the quality is one half."""
    groups, outcomes = [], []
    for number, row in enumerate(quality):
        decisions = {decision.rollout_id: decision for decision in controller.decisions(step, number)}
        reward = np.random.default_rng([step, number]).random(len(row)) < np.where(row > 0.1, 0.5, 0)
        rollouts = []
        for index, right in enumerate(reward):
            rollout_id = RolloutId(step, number, index)
            reason = FinishReason.PRUNED if rollout_id in stopped else FinishReason.STOP
            completion = Completion((1,) * 50, np.full(50, -1.0, np.float32), reason)
            rollouts.append(Rollout(rollout_id, completion, decisions[rollout_id], float(right)))
        groups.append(RolloutGroup(Prompt("p", (0,), "", ""), rollouts))
        kept = np.array([rollout.survived for rollout in rollouts])
        outcomes.append(Contribution(np.where(kept & (row > 0.1), 0.5, 0.0) * (2 * reward - 1), np.ones(len(row))))
    controller.learn(groups, outcomes)
