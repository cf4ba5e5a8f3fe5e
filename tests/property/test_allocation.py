"""Promises of every allocation rule, over random outcomes, lengths and orders of arrival; and its totals at scale."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrol.algorithms.allocation.aero import next_waves
from arrol.algorithms.allocation.allocator import Allocator
from arrol.algorithms.allocation.rule import StepShape, Tally
from arrol.algorithms.allocation.sizes import PilotCommit, ReinforceAda, knapsack_sizes
from arrol.configs.allocation import (
    ALLOCATIONS,
    AeroAllocation,
    PilotCommitAllocation,
    ReinforceAdaAllocation,
    require_possible,
)
from rollouts import LONGEST, World, groups_of, prompts_from

NAMES = "abcdefgh"
NUM_PROMPTS = 3
SMALL = {
    "aero": {"explore_size": 2, "rescue_step": 1},
    "reinforce_ada": {"round_size": 2, "keep_size": 4},
    "pilot_commit": {"pilot_size": 2, "commit_size": 3},
    "sara": {"explore_size": 2, "round_size": 1},
    "pods": {"train_size": 2},
    "cppo": {"train_size": 2},
}


@st.composite
def situations(draw):
    """A config that is possible, a world and a seed."""
    rule = draw(st.sampled_from(sorted(ALLOCATIONS)))
    changes = {
        "token_budget": draw(st.sampled_from([0, 0, 700, 1000])),
        "count_truncated": draw(st.booleans()),
        "posterior": {"used_for": draw(st.sampled_from(["nothing", "allocation", "advantage", "both"]))},
        **SMALL.get(rule, {}),
    }
    config = ALLOCATIONS[rule].model_validate(changes)
    size = draw(st.integers(2, 6))
    require_possible(config, size, NUM_PROMPTS, LONGEST)
    rates = draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), min_size=8, max_size=8))
    options = {
        "seed": draw(st.integers(0, 9999)),
        "error": draw(st.sampled_from([0.0, 0.2])),
        "survival": draw(st.sampled_from([lambda right: 1.0, lambda right: 0.7 if right else 0.35])),
    }
    return config, size, dict(zip(NAMES, rates, strict=True)).get, options


def run(situation, *, steps=3, restart_after=0, shuffle=None, clock=None, late=False):
    """Requests, lessons and memory of several steps; a restart in between goes through save and load."""
    config, size, rate, options = situation
    world, source = World(rate, **options), prompts_from(NAMES)
    allocator, lessons = None, []
    for step in range(1, steps + 1):
        if allocator is None or step == restart_after + 1:
            state = None if allocator is None else allocator.save()
            shape = StepShape(NUM_PROMPTS, size)
            allocator = Allocator(config, shape, seed=options["seed"], max_completion_tokens=LONGEST)
            if state is not None:
                allocator.load(state)
        if clock is None:
            groups = world.rounds(allocator, source, step, shuffle=shuffle)
        else:
            groups = world.events(allocator, source, step, clock=clock, late=late)
        lessons += [
            (tuple(lesson.selection.train_G), tuple(lesson.selection.factor_G), lesson.belief, lesson.left_out_G)
            for lesson in allocator.lessons(groups)
        ]
        allocator.metrics()
        allocator.learn(groups)
    return world.requests, lessons, allocator.save()


SETTINGS = settings(max_examples=150, deadline=None)


@SETTINGS
@given(situations())
def test_the_same_seed_makes_the_same_requests_and_lessons(situation):
    assert run(situation) == run(situation)


@SETTINGS
@given(situations(), st.integers(0, 99))
def test_order_of_arrival_within_a_round_changes_nothing(situation, seed):
    assert run(situation, shuffle=np.random.default_rng(seed)) == run(situation)


@SETTINGS
@given(situations(), st.integers(1, 3))
def test_a_restart_between_steps_equals_no_interruption(situation, after):
    assert run(situation, steps=4, restart_after=after) == run(situation, steps=4)


@SETTINGS
@given(situations(), st.integers(0, 99))
def test_waves_are_contiguous_and_no_prompt_is_asked_while_its_rollouts_run(situation, seed):
    """Asserted by the world at every request, in rounds and event by event; so are positive sizes."""
    config, size, *_ = situation
    requests, lessons, _ = run(situation, clock=np.random.default_rng(seed))
    assert len(lessons) >= NUM_PROMPTS * 3
    for step, of_step in itertools.groupby(requests, lambda request: request.step):
        sizes = {}
        for request in of_step:
            sizes[request.group] = sizes.get(request.group, 0) + request.size
        assert sorted(sizes) == list(range(len(sizes))), step
        if config.rule == "aero":
            assert sum(sizes.values()) <= size * NUM_PROMPTS
            assert max(sizes.values()) <= 2 * size


@settings(max_examples=80, deadline=None)
@given(situations(), st.integers(0, 99))
def test_outcomes_observed_only_when_due_make_the_same_requests_at_the_same_time(situation, seed):
    """The order of ends follows from when each rollout started, so a late request would change all that follow."""
    at_once, when_due = (run(situation, clock=np.random.default_rng(seed), late=late) for late in (False, True))
    assert when_due == at_once


@SETTINGS
@given(situations(), st.integers(0, 99))
def test_where_outcomes_decide_nothing_a_stream_asks_what_rounds_ask(situation, seed):
    config, *_ = situation
    if config.rule in ("uniform", "pods", "cppo", "knapsack", "mopps"):
        assert run(situation, clock=np.random.default_rng(seed))[1:] == run(situation)[1:]


@SETTINGS
@given(situations())
def test_rollouts_that_train_were_verified_or_weigh_nothing_and_weigh_no_more_than_their_group(situation):
    config, size, rate, options = situation
    allocator = Allocator(config, StepShape(NUM_PROMPTS, size), seed=0, max_completion_tokens=LONGEST)
    groups = World(rate, **options).rounds(allocator, prompts_from(NAMES))
    for group, lesson in zip(groups, allocator.lessons(groups), strict=True):
        verified_G = ~np.isnan(group.rewards_G) & ~lesson.ignored_G
        choice = lesson.selection
        assert (choice.factor_G >= 1).all()
        if choice.is_whole and choice.train_G.any():
            assert (choice.factor_G * choice.train_G)[verified_G].sum() == pytest.approx(verified_G.sum())


ANOTHER = """
import json
from arrol.algorithms.allocation.allocator import Allocator
from arrol.algorithms.allocation.rule import StepShape
from arrol.configs.allocation import ALLOCATIONS
from rollouts import LONGEST, World, groups_of, prompts_from
for rule in ALLOCATIONS:
    allocator = Allocator(ALLOCATIONS[rule](), StepShape(3, 16), seed=3, max_completion_tokens=LONGEST)
    world, source = World({"a": 0.1, "b": 0.5, "c": 1.0, "d": 0.3}.get), prompts_from("abcd")
    for step in (1, 2, 3):
        groups = world.rounds(allocator, source, step)
        kept = [lesson.selection.train_G.tolist() for lesson in allocator.lessons(groups)]
        print(kept, json.dumps(allocator.metrics()))
        allocator.learn(groups)
    print(world.requests, json.dumps(allocator.save()))
"""


def test_another_process_decides_and_logs_the_same():
    """Whatever the order of its hashes."""
    found = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", ANOTHER], env=environment, capture_output=True, check=True)
        found.append(done.stdout)
    assert len(found[0]) > 1000
    assert found[0] == found[1]


RATES = np.random.default_rng(0).beta(0.4, 0.6, 100_000)


def sample(rates_P, first_P, ask, rng):
    """Rounds on counts alone; right and asked by prompt."""
    asked_P, right_P, waves_P = first_P.copy(), rng.binomial(first_P, rates_P), np.ones(len(rates_P), int)
    while True:
        tally = Tally(asked_P, asked_P, asked_P, right_P, waves_P, (right_P + 1) / (asked_P + 2))
        prompts, size_N = ask(tally)
        if not len(prompts):
            return tally
        right_P = right_P + np.bincount(prompts, rng.binomial(size_N, rates_P[prompts]), len(rates_P)).astype(int)
        asked_P = asked_P + np.bincount(prompts, size_N, len(rates_P)).astype(int)
        waves_P = waves_P + np.bincount(prompts, minlength=len(rates_P))


def test_aero_on_a_hundred_thousand_prompts():
    shape, config = StepShape(len(RATES), 16), AeroAllocation(max_group=32)
    first_P = np.full(len(RATES), 4)
    tally = sample(RATES, first_P, lambda t: next_waves(t, config, shape), np.random.default_rng(1))
    assert tally.asked_P.sum() <= 16 * len(RATES)
    assert tally.asked_P.max() <= 32
    stayed = (tally.right_P == 0).mean()
    alone = ((1 - RATES) ** 4).mean()
    full = ((1 - RATES) ** 32).mean()
    # Every prompt without success was asked as often as the ceiling allows: 32 times.
    assert alone > stayed == pytest.approx(full, abs=0.005)


def test_reinforce_ada_on_a_hundred_thousand_prompts():
    rule = ReinforceAda(ReinforceAdaAllocation(exit="positive"), StepShape(len(RATES), 16))
    tally = sample(RATES, np.full(len(RATES), 4), rule.next_waves, np.random.default_rng(2))
    rounds = sum(((1 - RATES) ** (4 * done)).sum() for done in range(4))
    assert tally.waves_P.sum() == pytest.approx(rounds, rel=0.01)
    assert ((tally.right_P > 0) | (tally.waves_P == 4)).all()


def test_pilot_commit_on_a_hundred_thousand_prompts():
    rule = PilotCommit(PilotCommitAllocation(max_draws=1), StepShape(len(RATES), 16))
    tally = sample(RATES, np.full(len(RATES), 4), rule.next_waves, np.random.default_rng(3))
    committed = 1 - ((1 - RATES) ** 4 + RATES**4).mean()
    assert (tally.asked_P == 16).mean() == pytest.approx(committed, abs=0.005)
    assert set(np.unique(tally.asked_P)) == {4, 16}
    assert rule.wanted_prompts(tally) == 0
    rule.learn(groups_of(map(str, range(len(RATES)))), tally)
    assert rule.metrics()["allocation/prompts_evicted"] == pytest.approx((RATES**4).sum(), rel=0.02)


def test_a_knapsack_of_a_hundred_thousand_prompts():
    size_P = knapsack_sizes(RATES, 16 * len(RATES), least=2, most=64)
    assert size_P.sum() == 16 * len(RATES)
    assert size_P.min() == 2
    assert size_P.max() <= 64
    # The harder of two prompts that can be solved gets more, the easy ones the floor.
    assert size_P[(RATES > 0.05) & (RATES < 0.15)].mean() > size_P[(RATES > 0.4) & (RATES < 0.6)].mean() > 2
    assert (size_P[RATES > 0.99] == 2).all()
