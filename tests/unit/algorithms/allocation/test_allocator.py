"""The machine around every rule: budgets that hold, an account of everything, and no rule that stumbles."""

import doctest
import itertools

import numpy as np
import pytest

from arrol.algorithms.allocation import allocator as module
from arrol.algorithms.allocation.allocator import RULES
from arrol.configs.allocation import (
    ALLOCATIONS,
    AeroAllocation,
    DapoAllocation,
    GresoAllocation,
    KnapsackAllocation,
    MoppsAllocation,
    PilotCommitAllocation,
    PodsAllocation,
    ReinforceAdaAllocation,
    UniformAllocation,
    first_wave,
)
from arrol.errors import ConfigError
from arrol.types import RolloutId
from rollouts import LONGEST, World, allocator_for, group_of, prompts_from, rollout

NAMES = "abcdef"
RATES = {"a": 0.1, "b": 0.5, "c": 0.9, "d": 0.0, "e": 1.0, "f": 0.3}.get
SMALL = {
    "aero": {"explore_size": 2},
    "reinforce_ada": {"round_size": 2, "keep_size": 4},
    "pilot_commit": {"pilot_size": 2, "commit_size": 4},
    "pods": {"train_size": 3},
    "cppo": {"train_size": 3},
}


def config_of(rule, **changes):
    return ALLOCATIONS[rule].model_validate({**SMALL.get(rule, {}), **changes})


def play(config, *, rate=RATES, num_prompts=4, group_size=6, rounds=True, seed=0, **world):
    """One step; the allocator, its groups, its lessons and the requests."""
    allocator, played = allocator_for(config, num_prompts, group_size), World(rate, seed=seed, **world)
    source = prompts_from(NAMES)
    if rounds:
        groups = played.rounds(allocator, source)
    else:
        groups = played.events(allocator, source, clock=np.random.default_rng(seed))
    return allocator, groups, allocator.lessons(groups), played.requests


@pytest.mark.parametrize("rule", sorted(ALLOCATIONS))
def test_outcomes_may_wait_until_a_rule_can_act_on_them(rule):
    """Ends without a verdict, so that verification runs beside generation; under a token budget every end counts."""
    for budget, may_wait in ((0, True), (2000, RULES[rule].is_single_wave)):
        allocator, world = allocator_for(config_of(rule, token_budget=budget), 4, 6), World(RATES)
        world.events(allocator, prompts_from(NAMES), clock=np.random.default_rng(0), late=True)
        assert (world.num_late > 0) is may_wait


def test_a_success_is_due_when_it_frees_what_a_rescue_could_have_claimed():
    """Prompt 0 is solved and wants two more; prompt 1 could claim all four that are left until its first success."""
    config = AeroAllocation(explore_size=2, max_group=8, top_up_easy=True)
    allocator = allocator_for(config, 2, 4)
    allocator.begin(1, prompts_from(NAMES))
    assert not allocator.is_due([RolloutId(1, 0, 0), RolloutId(1, 1, 0)]), "nothing is idle"
    assert allocator.is_due([RolloutId(1, 0, 0), RolloutId(1, 0, 1)])
    assert allocator.observe([rollout(0, 1.0), rollout(1, 1.0)]) == []
    assert allocator.is_due([RolloutId(1, 1, 0)])
    (request,) = allocator.observe([rollout(0, 1.0, group=1)])
    assert (request.group, request.first, request.size) == (0, 2, 2)
    assert not allocator.is_due([])


def test_docstring_example():
    assert doctest.testmod(module) == (0, 5)


def test_every_variant_has_its_rule():
    assert set(RULES) == set(ALLOCATIONS)
    assert RULES["pods"] is RULES["cppo"]  # one class, two subsets
    assert len(set(RULES.values())) == len(RULES) - 1


@pytest.mark.parametrize("rule", ALLOCATIONS)
@pytest.mark.parametrize(
    ("rate", "world"),
    [
        (lambda key: 0.0, {}),
        (lambda key: 1.0, {}),
        (lambda key: 0.5, {"error": 1.0}),
        (lambda key: 0.5, {"survival": lambda right: 1e-9}),
        (RATES, {"error": 0.3, "survival": lambda right: 0.5}),
    ],
    ids=["all wrong", "all right", "all failed", "all stopped", "some of each"],
)
@pytest.mark.parametrize("rounds", [True, False])
def test_no_rule_stumbles_over_an_outcome(rule, rate, world, rounds):
    allocator, groups, lessons, requests = play(config_of(rule), rate=rate, rounds=rounds, **world)
    assert sum(request.size for request in requests) == sum(len(group.rollouts) for group in groups)
    for group, lesson in zip(groups, lessons, strict=True):
        assert len(lesson.selection.train_G) == len(lesson.selection.factor_G) == len(group.rollouts) > 0
        assert [r.rollout_id.index for r in group.rollouts] == list(range(len(group.rollouts)))
    allocator.learn(groups)
    assert all(np.isfinite(value) for value in allocator.metrics().values())
    assert len(allocator.begin(2, prompts_from(NAMES))) > 0


@pytest.mark.parametrize("rule", sorted(set(ALLOCATIONS) - {"aero", "pilot_commit", "knapsack", "pods"}))
def test_groups_of_one_are_possible_where_the_rule_allows_them(rule):
    changes = {"reinforce_ada": {"round_size": 1, "max_rounds": 2, "keep_size": 2}, "cppo": {"train_size": 1}}
    allocator, groups, lessons, _ = play(config_of(rule, **changes.get(rule, {})), group_size=1)
    assert len(lessons) == len(groups) >= 4
    allocator.learn(groups)


def test_a_knapsack_of_ones_is_possible():
    _, groups, *_ = play(config_of("knapsack", least=1, rollout_budget=4), group_size=1)
    assert [len(group.rollouts) for group in groups] == [1] * 4


@pytest.mark.parametrize("rounds", [True, False])
@pytest.mark.parametrize("rate", [lambda key: 0.0, lambda key: 1.0, lambda key: 0.05, RATES])
@pytest.mark.parametrize(
    "options", [{}, {"rollout_budget": 17, "max_group": 7, "rescue_step": 3}, {"top_up_easy": True}]
)
def test_aero_never_exceeds_its_budget_or_its_ceiling(rate, rounds, options):
    for seed in range(5):
        _, groups, _, requests = play(config_of("aero", **options), rate=rate, rounds=rounds, seed=seed)
        assert sum(request.size for request in requests) <= options.get("rollout_budget", 24)
        assert max(len(group.rollouts) for group in groups) <= options.get("max_group", 6)


def test_aero_spends_all_of_its_budget_on_hopeless_prompts():
    _, groups, *_ = play(config_of("aero"), rate=lambda key: 0.0)
    assert [len(group.rollouts) for group in groups] == [6] * 4
    _, groups, *_ = play(config_of("aero", max_group=12), rate=lambda key: float(key != "a"))
    assert [len(group.rollouts) for group in groups] == [12, 2, 2, 2]


@pytest.mark.parametrize("rounds", [True, False])
def test_aero_leaves_nothing_unspent_that_a_prompt_could_use(rounds):
    """Rescues end at a success, the ceiling or the budget; others are filled up unless that costs more than is left."""
    for seed in range(15):
        _, groups, *_ = play(config_of("aero", max_group=12), rounds=rounds, seed=seed, num_prompts=6)
        left = 36 - sum(len(group.rollouts) for group in groups)
        for group in groups:
            right, size = sum(r.reward for r in group.rollouts), len(group.rollouts)
            if right == 0:
                assert left == 0 or size == 12
            elif 2 * right < size < 6:
                assert 6 - size > left


def test_aero_stops_a_rescue_at_the_first_success():
    config = config_of("aero", explore_size=4, rollout_budget=1000, max_group=40)
    _, groups, _, requests = play(config, rate=lambda key: 0.04, num_prompts=30, group_size=4)
    for number, group in enumerate(groups):
        sizes = [request.size for request in requests if request.group == number]
        assert sizes == [4] + [2] * (len(sizes) - 1)
        before = [r.reward for r in group.rollouts[: -sizes[-1]]]
        assert not any(before)
        assert len(group.rollouts) == 40 or any(r.reward for r in group.rollouts)


@pytest.mark.parametrize(
    "rule", sorted({*ALLOCATIONS} - {"uniform", "pods", "cppo", "mopps", "knapsack", "neyman", "duet"})
)
@pytest.mark.parametrize("rounds", [True, False])
def test_the_token_budget_holds_whatever_the_lengths(rule, rounds):
    first, _ = first_wave(config_of(rule), 6)
    for seed in range(4):
        for spare in (0, 1, 3 * LONGEST, 10 * LONGEST + 5):
            budget = 4 * first * LONGEST + spare
            _, groups, *_ = play(config_of(rule, token_budget=budget), rounds=rounds, seed=seed)
            assert sum(r.completion.num_tokens for group in groups for r in group.rollouts) <= budget
            assert min(len(group.rollouts) for group in groups) >= first  # no prompt is drawn that cannot be asked


def test_a_wave_starts_only_if_it_fits_at_full_length():
    """9 x 16 + 15 tokens: room for 8 and one more, and for two when two have ended after a token each."""
    allocator = allocator_for(AeroAllocation(explore_size=2, rescue_step=4, token_budget=9 * LONGEST + 15), 4, 6)
    first = allocator.begin(1, prompts_from(NAMES))
    assert sum(request.size for request in first) == 8
    two = [rollout(i, 0.0, tokens=LONGEST) for i in range(2)]
    (more,) = allocator.observe(two)
    assert (more.group, more.first, more.size) == (0, 2, 1)
    (more,) = allocator.observe([rollout(i, 0.0, tokens=1, group=1) for i in range(2)])
    assert (more.group, more.size) == (1, 2)  # 34 written, 5 x 16 may be: 45 left


@pytest.mark.parametrize("rule", ["dapo", "greso", "pilot_commit"])
def test_draws_never_exceed_their_cap(rule):
    for rounds in (True, False):
        _, groups, *_ = play(config_of(rule, max_draws=3.3), rate=lambda key: 0.0, rounds=rounds)
        assert len(groups) == 13


@pytest.mark.parametrize("rule", sorted({*ALLOCATIONS} - {"uniform", "pods", "cppo", "duet"}))
def test_a_graded_reward_is_refused_where_outcomes_are_counted(rule):
    with pytest.raises(ConfigError, match=rf"^allocation.rule = '{rule}': a verifier gave reward 0.5, and a shaped "):
        play(config_of(rule), reward=lambda right: 0.5)


@pytest.mark.parametrize("rule", ["uniform", "pods", "cppo", "duet"])
def test_a_graded_reward_is_taken_where_nothing_counts_successes(rule):
    *_, lessons, _ = play(config_of(rule), reward=lambda right: 0.25 + right / 2)
    assert all(lesson.selection.train_G.any() for lesson in lessons)
    with pytest.raises(ConfigError, match="without a posterior"):
        play(config_of(rule, posterior={"used_for": "advantage"}), reward=lambda right: 0.5)


@pytest.mark.parametrize(("used_for", "has_belief"), [("nothing", False), ("allocation", False), ("both", True)])
def test_the_belief_is_the_baseline_where_it_is_said_to_be(used_for, has_belief):
    *_, lessons, _ = play(config_of("aero", posterior={"used_for": used_for}))
    assert {lesson.belief is not None for lesson in lessons} == {has_belief}


def test_a_prompt_seen_once_enters_its_next_visit():
    """3 of 4 right, worth half: Beta(1 + 1.5, 1 + 0.5) before the second visit, (4.5, 2.5) behind its 2 of 4."""
    config = config_of("uniform", posterior={"used_for": "advantage"})
    allocator = allocator_for(config, num_prompts=1, group_size=4)
    for step, rewards in ((1, [1, 1, 1, 0]), (2, [1, 0, 1, 0])):
        (request,) = allocator.begin(step, prompts_from("a"))
        assert request.success_rate == (None if step == 1 else 0.75)
        ended = [rollout(i, float(r), step=step) for i, r in enumerate(rewards)]
        assert allocator.observe(ended) == []
        groups = allocator.groups()
        (lesson,) = allocator.lessons(groups)
        allocator.learn(groups)
    assert lesson.belief == pytest.approx((4.5, 3.5))


def test_everything_that_was_drawn_asked_and_dropped_is_in_the_account():
    allocator, groups, lessons, requests = play(config_of("aero"), num_prompts=6, seed=4)
    metrics = allocator.metrics()
    rollouts = [
        pair
        for g, lesson in zip(groups, lessons, strict=True)
        for pair in zip(g.rollouts, lesson.left_out_G, strict=True)
    ]
    assert metrics["allocation/prompts_drawn"] == 6
    assert metrics["allocation/rollouts_asked"] == len(rollouts) == sum(r.size for r in requests)
    assert metrics["rollout/per_prompt"] == len(rollouts) / 6
    assert metrics["allocation/waves/mean"] == len(requests) / 6
    assert metrics["allocation/dropped/rejected"] == sum(reason == "rejected" for _, reason in rollouts) > 0
    assert metrics["allocation/tokens_dropped"] == sum(r.completion.num_tokens for r, reason in rollouts if reason)
    assert metrics["allocation/prompts_trained"] == 6
    for when in ("before", "after"):
        assert sum(metrics[f"allocation/stratum_{when}/{name}"] for name in ("rescue", "low", "high")) == 6
    assert metrics["allocation/stratum_before/rescue"] >= metrics["allocation/stratum_after/rescue"]


def test_strata_before_are_those_of_the_first_wave():
    config = config_of("aero", explore_size=2, rollout_budget=6, max_group=4)
    allocator = allocator_for(config, num_prompts=2, group_size=2)
    allocator.begin(1, prompts_from("ab"))
    ended = [rollout(0, 0.0), rollout(1, 0.0), rollout(0, 1.0, group=1), rollout(1, 1.0, group=1)]
    (more,) = allocator.observe(ended)
    assert (more.group, more.size, more.prune) == (0, 2, False)
    assert allocator.observe([rollout(2, 1.0), rollout(3, 0.0)]) == []
    metrics = allocator.metrics()
    assert [metrics[f"allocation/stratum_before/{name}"] for name in ("rescue", "low", "high")] == [1, 0, 1]
    assert [metrics[f"allocation/stratum_after/{name}"] for name in ("rescue", "low", "high")] == [0, 1, 1]


def test_truncated_rollouts_are_wrong_or_were_never_there():
    """2 right, 1 wrong, 1 cut off."""
    for counts, expected, trained in ((True, (2, 4), 4), (False, (2, 3), 3)):
        config = config_of("uniform", count_truncated=counts, posterior={"used_for": "advantage"})
        allocator = allocator_for(config, num_prompts=1, group_size=4)
        allocator.begin(1, prompts_from("a"))
        ended = [*(rollout(i, r) for i, r in enumerate([1.0, 1.0, 0.0])), rollout(3, 0.0, reason="length")]
        allocator.observe(ended)
        tally = allocator.tally()
        assert (tally.right_P[0], tally.verified_P[0]) == expected
        groups = allocator.groups()
        (lesson,) = allocator.lessons(groups)
        assert lesson.belief == (3, 1 + expected[1] - 2)
        assert lesson.left_out_G.count("") == trained
        assert allocator.metrics().get("allocation/dropped/truncated", 0) == 4 - trained
        allocator.learn(groups)
        assert allocator.begin(2, prompts_from("a"))[0].success_rate == expected[0] / expected[1]


def test_what_the_rule_counts_is_what_it_selects_by():
    """All right but for one that was cut off: uniform where that is left out, so the group is dropped and replaced."""
    for counts, drawn, trains in ((False, 2, False), (True, 1, True)):
        allocator = allocator_for(DapoAllocation(count_truncated=counts, max_draws=2), num_prompts=1, group_size=3)
        allocator.begin(1, prompts_from("ab"))
        ended = [rollout(0, 1.0), rollout(1, 1.0), rollout(2, 0.0, reason="length")]
        new = allocator.observe(ended)
        assert 1 + len(new) == drawn
        lessons = allocator.lessons([allocator.groups()[0]])
        assert lessons[0].selection.train_G.any() == trains


def test_every_step_and_group_has_choices_of_its_own():
    """Same outcomes, 8 of 16 train; and of the same candidates, which are drawn."""
    allocator = allocator_for(PodsAllocation(train_size=8), num_prompts=2, group_size=16)
    chosen, asked = [], []
    mopps = allocator_for(MoppsAllocation(candidates=6), num_prompts=2)
    for step in range(1, 5):
        requests = allocator.begin(step, prompts_from("ab"))
        ended = [rollout(i, float(i < 8), group=r.group, step=step) for r in requests for i in range(16)]
        allocator.observe(ended)
        chosen += [tuple(each.selection.train_G) for each in allocator.lessons(allocator.groups())]
        asked.append(tuple(request.prompt.key for request in mopps.begin(step, prompts_from("abcdefghijkl"))))
    assert len(set(chosen)) == 8
    assert len(set(asked)) == 4


@pytest.mark.parametrize("rule", ["aero", "knapsack", "greso", "pilot_commit", "mopps"])
def test_a_restart_between_steps_changes_no_request(rule):
    config = config_of(rule)
    straight, world, source = allocator_for(config), World(RATES), prompts_from(NAMES)
    for step in (1, 2, 3):
        straight.learn(world.rounds(straight, source, step))
    again, other = allocator_for(config), World(RATES)
    again.load(straight.save())
    assert again.save() == straight.save()
    world.requests.clear()
    here, there = prompts_from(NAMES), prompts_from(NAMES)
    for step in (4, 5):
        straight.learn(world.rounds(straight, here, step))
        again.learn(other.rounds(again, there, step))
    assert other.requests == world.requests
    assert again.save() == straight.save()


@pytest.mark.parametrize(
    "config",
    [
        AeroAllocation(),
        ReinforceAdaAllocation(),
        DapoAllocation(),
        GresoAllocation(),
        PilotCommitAllocation(),
    ],
    ids=lambda config: config.rule,
)
def test_rules_of_several_waves_hear_of_every_event_and_the_others_of_none(config):
    assert not RULES[config.rule].is_single_wave


@pytest.mark.parametrize("config", [UniformAllocation(), KnapsackAllocation(), PodsAllocation()], ids=lambda c: c.rule)
def test_rules_of_one_wave_ask_once(config):
    allocator = allocator_for(config)
    requests = allocator.begin(1, prompts_from(NAMES))
    ended = [rollout(i, 0.0, group=r.group) for r in requests for i in range(r.size)]
    assert allocator.observe(ended) == []
    assert allocator.prompt(1).key == "b"


def test_stopped_rollouts_are_no_outcomes():
    allocator = allocator_for(config_of("aero", explore_size=4), num_prompts=1)
    allocator.begin(1, prompts_from("a"))
    group = group_of([1.0, None, 0.0, None], survival=0.5)
    for stopped in (1, 3):
        group.rollouts[stopped] = rollout(stopped, None, reason="pruned", survival=0.5)
    allocator.observe(group.rollouts)
    tally = allocator.tally()
    assert (tally.ended_P[0], tally.verified_P[0], tally.right_P[0]) == (4, 2, 1)
    assert tally.mean_P[0] == 0.5


def test_rounding_does_not_tell_in_which_order_rollouts_ended():
    """Sums of weights such as 1/.3 and 1/.7 depend on their order; the mean that ranks prompts does not."""
    survival = [0.1, 0.3, 0.7, 0.9, 0.37]
    ended = [rollout(i, float(i % 2), survival=p) for i, p in enumerate(survival)]
    means = set()
    for order in itertools.permutations(ended):
        allocator = allocator_for(config_of("aero", explore_size=5), num_prompts=1)
        allocator.begin(1, prompts_from("a"))
        for one in order:
            allocator.observe([one])
        means.add(float(allocator.tally().mean_P[0]))
    assert len(means) == 1


def labelled(*pairs):
    """A group by (reward, success)."""
    group = group_of([reward for reward, _ in pairs])
    for one, (_, success) in zip(group.rollouts, pairs, strict=True):
        one.success = success
    return group


def test_a_shaped_reward_is_taken_where_the_task_says_what_is_right():
    allocator = allocator_for(config_of("dapo"), num_prompts=1, group_size=4)
    allocator.begin(1, prompts_from("a"))
    group = labelled((2.0, 1.0), (0.3, 0.0), (5.0, 1.0), (None, None))
    allocator.observe(group.rollouts)
    assert (allocator.tally().verified_P.tolist(), allocator.tally().right_P.tolist()) == ([3], [2])
    (lesson,) = allocator.lessons([group])
    assert lesson.selection.train_G.all(), "a mixed group trains"
    uniform = labelled((2.0, 1.0), (0.3, 1.0))
    (lesson,) = allocator.lessons([uniform])
    assert not lesson.selection.train_G.any(), "all right by their labels"
    tally = allocator.tally_of([labelled((2.0, 0.0), (0.5, 1.0), (0.5, float("nan")))])
    assert (tally.verified_P.tolist(), tally.right_P.tolist()) == ([2], [1])


def test_a_shaped_reward_is_refused_where_the_posterior_is_the_baseline():
    for used_for, is_refused in (("allocation", False), ("advantage", True), ("both", True)):
        allocator = allocator_for(config_of("aero", posterior={"used_for": used_for}), 1, 4)
        allocator.begin(1, prompts_from("a"))
        rollouts = labelled((2.0, 1.0), (0.0, 0.0)).rollouts
        if not is_refused:
            allocator.observe(rollouts)
            continue
        with pytest.raises(ConfigError, match=rf"allocation.posterior.used_for = '{used_for}': a rollout has reward 2"):
            allocator.observe(rollouts)
