"""The promises of the controller (its module; section 3.4 of the house), for any qualities and order of events."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrol.configs.method import BalancedRule, ConfidenceRule, ExtremesRule, NeymanRule, PaperRule, UniformRule
from arrol.pruning.draws import systematic
from arrol.types import Reason, RolloutId
from lottery import all_decisions, controller_of, event, events_of, filled_state, open_groups, play

seeded = settings(max_examples=30, deadline=None, derandomize=True)
seeds = st.integers(0, 2**20)
TWO = {"probe_tokens": (8, 16), "keep_ratio": 0.4, "probe_keep_ratios": (0.7, 0.4)}
RULES = {
    "uniform": UniformRule(warmup_steps=0),
    "neyman": NeymanRule(warmup_steps=0),
    "neyman_batch": NeymanRule(warmup_steps=0, scope="batch"),
    "neyman_alone": NeymanRule(warmup_steps=0, draw="bernoulli", min_survivors=0),
    "balanced": BalancedRule(warmup_steps=0),
    "paper": PaperRule(warmup_steps=0, min_survivors=0),
    "paper_exact": PaperRule(warmup_steps=0, draw="systematic"),
    "confidence": ConfidenceRule(warmup_steps=0, mix=0.2),
}
QUALITY = np.random.default_rng(5).beta(0.8, 1.2, (8, 16))
HISTORY = [None, 0.1, 0.5, 0.9, 0.02, 0.3, None, 0.7]
each_rule = pytest.mark.parametrize("name", RULES)


def filled(config):
    return filled_state(config, QUALITY, history=HISTORY)


def draws(controller, count, step=2):
    return [(d.rollout_id, d.keep, d.survival, d.reason) for d in all_decisions(controller, count, step=step)]


@each_rule
@seeded
@given(seed=seeds)
def test_a_probe_seen_twice_counts_once(name, seed):
    rng, config = np.random.default_rng(seed), RULES[name]
    quality, state = rng.random((3, 8)), filled(config)
    events = events_of(quality, step=2)
    once, twice = controller_of(config, state=state), controller_of(config, state=state)
    for controller, repeats in ((once, 1), (twice, 3)):
        open_groups(controller, quality, step=2)
        seen = []
        for e in events:
            again = [seen[i] for i in rng.integers(len(seen), size=2)] if seen and repeats > 1 else []
            controller.probed([e] * repeats + again)
            seen.append(e)
    assert draws(once, 3) == draws(twice, 3)
    np.testing.assert_array_equal(once.save()["recent"]["0"], twice.save()["recent"]["0"])


@each_rule
@seeded
@given(seed=seeds)
def test_order_of_arrival_changes_no_draw(name, seed):
    """One by one or in lists, with short rollouts ending in between: the same survival and lot for all."""
    rng, config = np.random.default_rng(seed), RULES[name]
    quality, state = rng.random((3, 8)), filled(config)
    short = {
        RolloutId(2, int(g), int(i)) for g, i in zip(rng.integers(3, size=5), rng.integers(8, size=5), strict=True)
    }
    outcomes = []
    for _ in range(3):
        controller = controller_of(config, state=state)
        open_groups(controller, quality, step=2, history=[0.3, None, 0.8])
        moves = [e for e in events_of(quality, step=2) if e.rollout_id not in short] + sorted(short)
        stopped, cut = set(), np.sort(rng.integers(len(moves), size=4))
        for block in np.split(rng.permutation(len(moves)), cut):
            chosen = [moves[i] for i in block]
            stopped |= set(controller.probed([m for m in chosen if not isinstance(m, RolloutId)]))
            stopped |= set(controller.finished([m for m in chosen if isinstance(m, RolloutId)]))
        outcomes.append((draws(controller, 3), stopped, controller.save()["recent"]["0"].tobytes()))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert len(outcomes[0][0]) == 24 - len(short)
    assert not outcomes[0][1] & short


@each_rule
@seeded
@given(seed=seeds)
def test_any_run_of_events_keeps_the_promises(name, seed):
    """Random progress, ends and ticks, two probes: none who ended is stopped, floors hold, products are bounded."""
    rng = np.random.default_rng(seed)
    floor = int(rng.integers(1, 4))
    changes = {**TWO, "min_survivors": floor, "barrier_timeout": float(rng.integers(1, 30))}
    config = RULES[name].model_copy(update=changes)
    controller = controller_of(config, state=filled(config), seed=seed)
    quality = rng.random((3, 6))
    open_groups(controller, quality, step=2)
    length = rng.integers(1, 25, quality.shape)
    place, alive, stopped, now = np.zeros(quality.shape, int), {*np.ndindex(3, 6)}, set(), 0
    while alive:
        now += 1
        moving = [key for key in sorted(alive) if rng.random() < 0.6]
        stops, ended = [], []
        for g, i in moving:
            place[g, i] += 1
            if place[g, i] in (8, 16) and place[g, i] < length[g, i]:
                stops += controller.probed([event(g, i, quality[g, i], step=2, probe=place[g, i] // 8 - 1)])
            elif place[g, i] >= length[g, i]:
                ended.append(RolloutId(2, g, i))
        ended = [r for r in ended if r not in stops]
        stops += controller.finished(ended) + controller.tick(now)
        alive -= {r[1:] for r in ended}
        assert len(set(stops)) == len(stops)
        assert {r[1:] for r in stops} <= alive
        alive -= {r[1:] for r in stops}
        stopped |= set(stops)
    for group in range(3):
        assert 6 - len({r for r in stopped if r.group == group}) >= floor
        for decision in controller.decisions(2, group):
            assert 0.1 - 1e-9 <= decision.survival <= 1 or name == "confidence"
            assert decision.keep == (decision.rollout_id not in stopped)
            assert decision.rollout_id[1:] in {*map(tuple, np.argwhere(length > 8))}


def waves_played(config, seed, plan, order):
    """Waves ``(group, size, prune)`` of one step; each has half its events when the next comes, mixed by ``order``."""
    rng, controller = np.random.default_rng(seed), controller_of(config, state=filled(config), seed=seed)
    sizes, stops, late = {}, [], []

    def happen(events):
        for rollout_id, quality, is_short in events:
            if is_short:
                stops.extend(controller.finished([rollout_id]))
            else:
                stops.extend(controller.probed([event(*rollout_id[1:], quality, step=2)]))

    for group, size, prune in plan:
        first = sizes.get(group, 0)
        sizes[group] = first + size
        controller.open(2, group, size, prune=prune)
        happen(late)
        events = [(RolloutId(2, group, first + i), rng.random(), rng.random() < 0.2) for i in range(size)]
        events = [events[i] for i in order.permutation(size)]
        happen(events[: size // 2])
        late = events[size // 2 :]
    happen(late)
    return controller, sizes, stops


@each_rule
@seeded
@given(seed=seeds)
def test_waves_keep_the_promises(name, seed):
    """None is stopped twice, floors hold, the spared survive, all are decided, order inside a wave changes nothing."""
    rng = np.random.default_rng(seed)
    floor = int(rng.integers(1, 4))
    config = RULES[name].model_copy(update={"min_survivors": floor, "barrier_timeout": 10_000})
    plan = [(int(rng.integers(3)), int(rng.integers(1, 7)), bool(rng.random() < 0.7)) for _ in range(6)]
    outcomes = []
    for order in (np.random.default_rng(1), np.random.default_rng(2)):
        controller, sizes, stops = waves_played(config, seed, plan, order)
        assert len(set(stops)) == len(stops)
        spared, begun = set(), dict.fromkeys(sizes, 0)
        for group, size, prune in plan:
            spared |= set() if prune else {RolloutId(2, group, begun[group] + i) for i in range(size)}
            begun[group] += size
        assert not spared & set(stops)
        for group, size in sizes.items():
            assert size - sum(r.group == group for r in stops) >= min(floor, size)
            decisions = controller.decisions(2, group)
            assert {d.rollout_id for d in decisions if not d.keep} == {r for r in stops if r.group == group}
            assert {(d.survival, d.reason) for d in decisions if d.rollout_id in spared} <= {(1.0, Reason.RESCUE)}
            assert not any(waiting for waiting in controller._groups[2, group].waiting)
        outcomes.append({(d.rollout_id, d.keep, d.survival) for g in sizes for d in controller.decisions(2, g)})
    if config.draw == "systematic":
        assert outcomes[0] == outcomes[1]


def frequencies(config, quality, count, probes, history):
    """Per rollout, mean over seeds of (kept / survival), its standard error, and all survivals of the first run."""
    state = filled(config)
    ratio = np.zeros((count, quality.size))
    for seed in range(count):
        controller = controller_of(config, seed=seed, state=state)
        stopped = play(controller, quality, step=2, history=history, probes=probes)
        for row, decision in enumerate(all_decisions(controller, len(quality), step=2)):
            assert decision.keep == (decision.rollout_id not in stopped)
            ratio[seed, row] = decision.keep / decision.survival
        for group, size in enumerate(map(len, quality)):
            assert size - sum(r.group == group for r in stopped) >= config.min_survivors
    return ratio.mean(0), ratio.std(0) / np.sqrt(count)


@pytest.mark.parametrize("probes", [1, 2])
@pytest.mark.parametrize("draw", ["systematic", "bernoulli"])
@pytest.mark.parametrize("scope", ["group", "batch"])
def test_the_frequency_of_keeping_is_the_recorded_survival(scope, draw, probes):
    """E[K / p] = 1 for all, with a floor that binds: in batch scope one group is nearly dead, two of six must stay."""
    config = NeymanRule(warmup_steps=0, scope=scope, draw=draw, min_survivors=2, keep_ratio=0.4)
    if probes == 2:
        config = config.model_copy(update=TWO)
    quality = np.array([[0.02, 0.02, 0.03, 0.05, 0.02, 0.02], [0.3, 0.9, 0.5, 0.1, 0.7, 0.4]])
    mean, error = frequencies(config, quality, 500, probes, [0.02, 0.5])
    assert (np.abs(mean - 1) < 4.5 * np.maximum(error, 1e-9)).all(), (mean, error)
    assert (error < 0.15).all()


@pytest.mark.parametrize("scope", ["group", "batch"])
def test_the_frequency_of_keeping_in_a_later_wave_is_the_recorded_survival(scope):
    """With a floor that binds: after the first wave's losses one group has fewer left than it needs."""
    config = NeymanRule(warmup_steps=0, scope=scope, min_survivors=3, keep_ratio=0.3)
    state, ratio = filled(config), np.zeros((500, 8))
    for seed in range(500):
        controller = controller_of(config, seed=seed, state=state)
        for first in (0, 4):
            for group in range(2):
                controller.open(2, group, 4, 0.02 + 0.5 * group)
            for group in range(2):
                controller.probed([event(group, i, 0.02 + 0.1 * i * group, step=2) for i in range(first, first + 4)])
        later = [d for d in all_decisions(controller, 2, step=2) if d.rollout_id.index >= 4]
        ratio[seed] = [d.keep / d.survival for d in later]
    error = ratio.std(0) / np.sqrt(len(ratio))
    assert (np.abs(ratio.mean(0) - 1) < 4.5 * np.maximum(error, 1e-9)).all()


def test_a_binding_floor_is_part_of_the_survival():
    """Batch scope at keep 0.25 gives the dead group less than the two it needs, and the other group pays for it."""
    config = NeymanRule(warmup_steps=0, scope="batch", min_survivors=2, keep_ratio=0.25, min_survival=0.05)
    quality = np.array([[0.01] * 6, [0.5] * 6])
    controller = controller_of(config)
    play(controller, quality, history=[0.02, 0.5])
    survival = [d.survival for d in controller.decisions(1, 0)]
    assert sum(survival) == pytest.approx(2, abs=1e-6)
    assert sum(d.survival for d in controller.decisions(1, 1)) == pytest.approx(2, abs=1e-6)  # not below its own floor
    assert sum(d.keep for d in controller.decisions(1, 0)) == 2


@pytest.mark.parametrize("rule", [ConfidenceRule(warmup_steps=0), ExtremesRule(warmup_steps=0, keep_ratio=0.1)])
def test_rules_that_stop_with_certainty_leave_the_floor_too(rule):
    controller = controller_of(rule, state=filled_state(rule, np.full((4, 16), 0.9)))
    play(controller, np.full((2, 8), 0.1), step=2)
    for group in range(2):
        decisions = controller.decisions(2, group)
        assert sum(d.keep for d in decisions) >= 2
        assert all(0 < d.survival <= 1 for d in decisions)


@pytest.mark.parametrize("name", ["uniform", "neyman", "balanced"])
def test_the_keep_ratio_is_met_exactly_where_siblings_are_known(name):
    for ratio in (0.25, 0.5, 0.75):
        config = RULES[name].model_copy(update={"keep_ratio": ratio, "max_survival": 1.0})
        controller = controller_of(config, seed=int(100 * ratio))
        stopped = play(controller, QUALITY)
        assert [sum(r.group == g for r in stopped) for g in range(8)] == [round(16 * (1 - ratio))] * 8


@pytest.mark.parametrize("rule", [NeymanRule, PaperRule, BalancedRule, UniformRule])
@pytest.mark.parametrize("changes", [{}, TWO], ids=["one probe", "two probes"])
def test_the_keep_ratio_is_met_in_expectation_without_siblings(rule, changes):
    """Constants come from the buffer, filled by such prompts with such histories; each candidate is drawn alone."""
    rng = np.random.default_rng(1)
    config = rule(warmup_steps=0, draw="bernoulli", min_survivors=0, **changes)
    rate = rng.uniform(0.02, 0.98, 120)
    quality = rng.beta(3 * rate[:, None], 3 - 3 * rate[:, None], (120, 8))
    state = filled_state(config, quality[:60], history=list(rate[:60]))
    controller = controller_of(config, state=state)
    open_groups(controller, quality[60:], step=2, history=list(rate[60:]))
    stopped = set()
    for probe in range(len(config.probe_tokens)):
        for e in events_of(quality[60:], step=2, probe=probe):
            stopped |= set() if e.rollout_id in stopped else set(controller.probed([e]))
    kept = 1 - len(stopped) / 480
    assert abs(kept - config.keep_ratio) < 0.06
    if rule is NeymanRule and not changes:
        survival = np.array([d.survival for d in all_decisions(controller, 60, step=2)])
        assert abs(survival.mean() - 0.5) < 0.02
    if rule is not UniformRule:  # the last probe still follows the rule
        last = [d for d in all_decisions(controller, 60, step=2) if d.probe == len(config.probe_tokens) - 1]
        assert np.std([d.survival for d in last]) > 0.02


@seeded
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20).map(np.array), seeds)
def test_a_systematic_draw_keeps_the_sum_rounded_down_or_up(survival, seed):
    kept = systematic(survival, [seed])
    assert np.floor(survival.sum() - 1e-6) <= kept.sum() <= np.ceil(survival.sum() + 1e-6)
    assert kept[survival >= 1].all()


@each_rule
@pytest.mark.parametrize("score", [None, float("nan"), float("inf")])
def test_without_a_score_all_are_kept(name, score):
    controller = controller_of(RULES[name], state=filled(RULES[name]))
    controller.open(2, 0, 8)
    stops = controller.probed([event(0, i, score, step=2) for i in range(8)])
    assert stops == []
    assert {(d.survival, d.reason) for d in controller.decisions(2, 0)} == {(1.0, Reason.NO_SCORE)}
    assert len(controller.decisions(2, 0)) == 8


@each_rule
@pytest.mark.parametrize(("step", "is_pruned"), [(0, False), (1, False), (3, False), (4, True)])
def test_warm_up_and_evaluation_keep_all(name, step, is_pruned):
    """Steps count from 1; evaluation is step 0."""
    config = RULES[name].model_copy(update={"warmup_steps": 3})
    controller = controller_of(config, state=filled(config))
    stopped = play(controller, QUALITY, step=step)
    assert bool(stopped) == is_pruned
    if not is_pruned:
        assert {(d.survival, d.reason) for d in all_decisions(controller, 8, step=step)} == {(1.0, Reason.WARMUP)}


@pytest.mark.parametrize("name", ["neyman", "neyman_batch", "balanced", "neyman_alone"])
def test_survival_is_the_product_over_probes_and_its_floor_holds(name):
    config = RULES[name].model_copy(update={**TWO, "min_survival": 0.15, "min_survivors": 3})
    quality = np.vstack([QUALITY[:3, :8], np.full((1, 8), 0.01)])
    history = [0.5, 0.4, 0.6, 0.02]
    for seed in range(30):
        controller = controller_of(config, seed=seed, state=filled(config))
        open_groups(controller, quality, step=2, history=history)
        first = events_of(quality, step=2)
        stopped = set(controller.probed(first))
        before = {d.rollout_id: d for d in all_decisions(controller, 4, step=2)}
        alive = [e for e in events_of(quality, step=2, probe=1) if e.rollout_id not in stopped]
        stopped |= set(controller.probed(alive))
        for decision in all_decisions(controller, 4, step=2):
            assert 0.15 - 1e-9 <= decision.survival <= before[decision.rollout_id].survival
            assert decision.probe == (0 if not before[decision.rollout_id].keep else 1)
        assert [8 - sum(r.group == g for r in stopped) >= 3 for g in range(4)] == [True] * 4


@each_rule
@pytest.mark.parametrize("changes", [{}, TWO], ids=["one probe", "two probes"])
def test_save_and_load_change_no_later_decision(name, changes):
    config = RULES[name].model_copy(update={**changes, "warmup_steps": 1})
    probes = len(config.probe_tokens)
    whole = controller_of(config, seed=4)
    for step in (1, 2, 3):
        play(whole, QUALITY, step=step, history=HISTORY, probes=probes)
    state = {"recent": {key: np.array(value) for key, value in whole.save()["recent"].items()}}
    again = controller_of(config, seed=4, state=state)
    for step in (4, 5):
        quality = np.random.default_rng(step).random((8, 16))
        for controller in (whole, again):
            play(controller, quality, step=step, history=HISTORY, probes=probes)
        assert draws(whole, 8, step) == draws(again, 8, step)
        for key, value in whole.save()["recent"].items():
            np.testing.assert_array_equal(value, again.save()["recent"][key])
