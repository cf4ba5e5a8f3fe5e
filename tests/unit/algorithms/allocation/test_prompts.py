"""Which prompts are asked: DAPO's cap, GRESO's memory, MoPPS's target."""

import numpy as np
import pytest

from arrol.algorithms.allocation.prompts import (
    DynamicSampling,
    Greso,
    Mopps,
    nearest_to_target,
    repeat_probability,
)
from arrol.algorithms.allocation.rule import Outcomes, StepShape
from arrol.algorithms.posterior import Belief
from arrol.configs.allocation import DapoAllocation, GresoAllocation, MoppsAllocation
from arrol.errors import ConfigError
from rollouts import World, allocator_for, groups_of, prompts_from, tally_of

SHAPE = StepShape(4, 8)


def dapo(**options):
    return DynamicSampling(DapoAllocation(**options), SHAPE)


def test_what_is_missing_is_drawn_and_not_more():
    """Two mixed, one that runs, one all right: one is missing."""
    tally = tally_of([1, 3, 0, 8], [8, 8, 2, 8], asked=[8, 8, 8, 8])
    assert dapo().wanted_prompts(tally) == 1
    assert dapo(max_draws=1).wanted_prompts(tally) == 0
    assert dapo().wanted_prompts(tally_of([1] * 4, [8] * 4)) == 0


@pytest.mark.parametrize("right", [0, 8])
def test_uniform_groups_are_dropped_and_mixed_ones_train(right):
    reward = np.array([1.0] * right + [0.0] * (8 - right))
    dropped = dapo().select(Outcomes(reward, Belief(1, 1)), [0])
    assert (dropped.train_G.any(), dropped.reason) == (False, "uniform")
    reward[0] = 1 - reward[0]
    assert dapo().select(Outcomes(reward, Belief(1, 1)), [0]).train_G.all()
    assert not dapo().select(Outcomes(np.full(8, np.nan), Belief(1, 1)), [0]).train_G.any()


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_the_cap_is_hard_and_the_step_goes_on(rate):
    allocator = allocator_for(DapoAllocation(max_draws=2.5))
    groups = World(lambda key: rate).rounds(allocator, prompts_from("abcdef"))
    assert len(groups) == 10
    assert not any(lesson.selection.train_G.any() for lesson in allocator.lessons(groups))
    metrics = allocator.metrics()
    assert metrics["allocation/prompts_drawn"] == 10
    assert metrics["allocation/rollouts_asked"] == metrics["allocation/dropped/uniform"] == 80
    assert metrics["allocation/prompts_trained"] == 0


def test_the_cap_may_end_the_run_with_an_account():
    allocator = allocator_for(DapoAllocation(max_draws=2, at_cap="error"))
    rates = {"a": 0.5, "b": 0.0, "c": 0.0}
    with pytest.raises(ConfigError, match=r"^allocation.max_draws = 2: 8 prompts drawn, [1-4] of 4 groups are mixed; "):
        World(rates.get).rounds(allocator, prompts_from("abc"))


def test_a_full_step_is_no_error_at_the_cap():
    allocator = allocator_for(DapoAllocation(max_draws=1, at_cap="error"))
    groups = World(lambda key: 0.5).rounds(allocator, prompts_from("abcd"))
    assert len(groups) == 4


def test_a_step_has_as_many_mixed_groups_as_it_wants_and_never_more():
    rates = {"a": 0.5, "b": 0.0, "c": 0.4, "d": 1.0, "e": 0.6}
    for seed in range(8):
        allocator = allocator_for(DapoAllocation(max_draws=8))
        groups = World(rates.get, seed=seed).rounds(allocator, prompts_from("abcde"))
        trained = [lesson.selection.train_G.any() for lesson in allocator.lessons(groups)]
        assert sum(trained) == 4
        assert allocator.metrics()["allocation/dropped/uniform"] == 8 * (len(groups) - 4)


@pytest.mark.parametrize(
    ("repeat", "visits", "expected"), [(0.5, 0, 1), (0.5, 1, 0.5), (0.5, 3, 0.125), (0.5, 9, 0.01), (0.05, 2, 0.01)]
)
def test_a_prompt_is_asked_again_with_a_power_of_repeat_but_never_with_less_than_the_least(repeat, visits, expected):
    assert repeat_probability(repeat, visits) == expected


def greso(**options):
    return Greso(GresoAllocation(**options), SHAPE)


def streaks(rule):
    return rule.save()["streaks"]


def test_uniform_visits_in_a_row_are_counted_by_kind():
    rule = greso()
    names = ["easy", "hard", "mixed", "silent", "turns"]
    rule.learn(groups_of(names), tally_of([8, 0, 3, 0, 8], [8, 8, 8, 0, 8], ended=[8] * 5))
    rule.learn(groups_of(names), tally_of([8, 0, 3, 0, 0], [8, 8, 8, 0, 8], ended=[8] * 5))
    assert streaks(rule) == {"easy": ["easy", 2], "hard": ["hard", 2], "turns": ["hard", 1]}
    rule.learn(groups_of(["easy", "hard"]), tally_of([1, 0], [8, 0], ended=[8, 8]))
    assert streaks(rule) == {"hard": ["hard", 2], "turns": ["hard", 1]}  # a visit without outcomes changes nothing


@pytest.mark.parametrize(("kind", "right"), [("easy", 8), ("hard", 0)])
def test_skipping_follows_the_streak_of_its_kind(kind, right):
    """Asked again with .5 squared; the other kind's chance plays no part."""
    other = {"easy": "hard", "hard": "easy"}[kind]
    rule = greso(repeat_step=0, **{f"{kind}_repeat": 0.5, f"{other}_repeat": 0.9})
    for _ in range(2):
        rule.learn(groups_of(["a"]), tally_of([right], [8]))
    source, asked = prompts_from("ab"), []
    for number in range(3000):
        asked += [prompt.key for prompt in rule.draw(1, source, None, [0, number])]
    share = asked.count("a") / asked.count("b")
    # Between two visits of b, a is met once and asked with chance 1/4.
    assert share == pytest.approx(0.25, abs=0.03)
    skipped = rule.metrics()["allocation/prompts_skipped"]
    assert skipped == pytest.approx(3 * asked.count("a"), rel=0.15)
    assert rule.metrics()["allocation/prompts_skipped"] == 0


@pytest.mark.parametrize(
    ("right", "easy", "hard"),
    [([8, 8, 1, 1], 0.4, 0.6), ([0, 0, 1, 1], 0.6, 0.4), ([1, 1, 1, 1], 0.6, 0.6), ([8, 0, 0, 8], 0.4, 0.4)],
)
def test_repeats_move_against_the_share_of_uniform_groups(right, easy, hard):
    """Targets: a twelfth all right, a sixth all wrong."""
    rule = greso(repeat_step=0.1)
    rule.learn(groups_of(list("abcd")), tally_of(right, [8] * 4))
    found = rule.metrics()
    assert (found["allocation/easy_repeat"], found["allocation/hard_repeat"]) == pytest.approx((easy, hard))


def test_a_third_of_the_wanted_uniform_groups_is_all_right():
    """An eighth of each kind lies above the twelfth of the easy and below the sixth of the hard."""
    rule = greso(repeat_step=0.1)
    rule.learn(groups_of(list("abcdefgh")), tally_of([8, 0, 1, 1, 1, 1, 1, 1], [8] * 8))
    found = rule.metrics()
    assert (found["allocation/easy_repeat"], found["allocation/hard_repeat"]) == pytest.approx((0.4, 0.6))


@pytest.mark.parametrize(("right", "bound"), [(0, 0.05), (1, 0.95)])
def test_repeats_stay_within_their_bounds(right, bound):
    rule = greso(repeat_step=0.1)
    for _ in range(20):
        rule.learn(groups_of(list("abcd")), tally_of([right] * 4, [8] * 4))
    assert rule.metrics()["allocation/hard_repeat"] == bound


def test_a_restart_remembers_streaks_and_repeats():
    rule, again = greso(), greso()
    rule.learn(groups_of(list("abcd")), tally_of([8, 0, 3, 0], [8] * 4))
    again.load(rule.save())
    assert again.save() == rule.save()
    keys = [[p.key for p in each.draw(9, prompts_from("abcd"), None, [5])] for each in (rule, again)]
    assert keys[0] == keys[1]


def test_a_pool_of_solved_prompts_does_not_hang():
    rule = greso(repeat_step=0)
    for _ in range(30):
        rule.learn(groups_of(["a", "b"]), tally_of([8, 8], [8, 8]))
    assert len(rule.draw(16, prompts_from("ab"), None, [0])) == 16


def test_the_nearest_to_the_target_are_chosen_in_the_order_of_the_data():
    rates = np.array([0.02, 0.5, 0.97, 0.45, 0.1, 0.55])
    beliefs = [Belief(1e4 * p, 1e4 * (1 - p)) for p in rates]
    assert nearest_to_target(beliefs, 3, 0.5, [1]).tolist() == [1, 3, 5]
    assert nearest_to_target(beliefs, 2, 1.0, [1]).tolist() == [2, 5]
    assert nearest_to_target(beliefs, 9, 0.5, [1]).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_rate_is_drawn_and_the_draw_is_keyed():
    beliefs = [Belief(1, 1)] * 40
    first = nearest_to_target(beliefs, 5, 0.5, [1, 2]).tolist()
    assert nearest_to_target(beliefs, 5, 0.5, [1, 2]).tolist() == first
    assert nearest_to_target(beliefs, 5, 0.5, [1, 3]).tolist() != first


def test_mopps_asks_the_middling_of_many_candidates():
    history = {"a": Belief(90, 10), "b": Belief(50, 50), "c": Belief(5, 95), "d": Belief(48, 52)}
    rule = Mopps(MoppsAllocation(candidates=2), StepShape(2, 8))
    assert [p.key for p in rule.draw(2, prompts_from("abcd"), history.get, [0])] == ["b", "d"]
    assert rule.first_waves([Belief(1, 1)] * 2).tolist() == [8, 8]
    one = Mopps(MoppsAllocation(candidates=1), StepShape(2, 8))
    assert [p.key for p in one.draw(2, prompts_from("abcd"), history.get, [0])] == ["a", "b"]


def test_mopps_asks_no_prompt_twice_while_there_are_others():
    rule, belief = Mopps(MoppsAllocation(candidates=8), StepShape(4, 8)), Belief(1.0, 1.0)
    asked = [prompt.key for prompt in rule.draw(4, prompts_from("abcde"), lambda _: belief, [1])]
    assert len({*asked}) == 4
    assert len(rule.draw(4, prompts_from("ab"), lambda _: belief, [1])) == 4
