"""Reinforce-Ada's exits, Pilot-Commit's two stages, the knapsack against a dynamic programme."""

import itertools

import numpy as np
import pytest

from arrol.algorithms.allocation.rule import Outcomes, StepShape
from arrol.algorithms.allocation.sizes import (
    Knapsack,
    Neyman,
    PilotCommit,
    ReinforceAda,
    has_shown_enough,
    knapsack_sizes,
    neyman_sizes,
    rollouts_value,
)
from arrol.algorithms.posterior import Belief
from arrol.configs.allocation import (
    KnapsackAllocation,
    NeymanAllocation,
    PilotCommitAllocation,
    ReinforceAdaAllocation,
)
from rollouts import World, allocator_for, groups_of, prompts_from, tally_of

FLAT = Belief(1, 1)


@pytest.mark.parametrize(
    ("right", "verified", "balanced", "positive"),
    [
        (0, 8, False, False),
        (1, 8, False, True),
        (4, 8, True, True),
        (4, 7, False, True),
        (5, 9, True, True),
        (8, 8, False, True),
    ],
)
def test_a_prompt_leaves_when_it_has_shown_enough(right, verified, balanced, positive):
    for exit_, expected in (("balanced", balanced), ("positive", positive)):
        config = ReinforceAdaAllocation(exit=exit_, keep_size=8)
        assert has_shown_enough(np.array([right]), np.array([verified]), config).tolist() == [expected]


def test_reinforce_ada_goes_on_in_rounds_until_exit_or_limit():
    """A prompt that has enough, one at its last round, one that runs, one that goes on."""
    rule = ReinforceAda(ReinforceAdaAllocation(max_rounds=3), StepShape(4, 8))
    tally = tally_of([4, 0, 0, 1], [8, 12, 3, 8], asked=[8, 12, 4, 8], waves=[2, 3, 1, 2])
    assert rule.next_waves(tally).tolist() == [[3], [4]]
    assert rule.first_waves([FLAT]).tolist() == [4]


@pytest.mark.parametrize(
    ("rate", "exit_", "asked"), [(0.0, "balanced", 16), (1.0, "balanced", 16), (1.0, "positive", 4)]
)
def test_reinforce_ada_ends_for_prompts_that_never_change(rate, exit_, asked):
    allocator = allocator_for(ReinforceAdaAllocation(exit=exit_))
    groups = World(lambda key: rate).rounds(allocator, prompts_from("abcd"))
    assert [len(group.rollouts) for group in groups] == [asked] * 4


def test_reinforce_ada_trains_on_a_group_of_fixed_size_against_the_mean_of_all():
    rule = ReinforceAda(ReinforceAdaAllocation(keep_size=4), StepShape(1, 8))
    choice = rule.select(Outcomes(np.array([1.0] * 9 + [0.0] * 3), FLAT), [0])
    assert (choice.train_G[:9].sum(), choice.train_G[9:].sum()) == (2, 2)
    assert (choice.baseline, choice.is_whole, choice.reason) == ("all", False, "surplus")


def pilot(**options):
    return PilotCommit(PilotCommitAllocation(pilot_size=4, commit_size=12, **options), StepShape(4, 8))


def test_pilots_within_the_bounds_are_committed_to_once():
    """Rates 0, .25, .75, 1, then one that runs and one that is committed to already; bounds are inclusive."""
    verified, asked = [4, 4, 4, 4, 2, 16], [4, 4, 4, 4, 4, 16]
    tally = tally_of([0, 1, 3, 4, 1, 4], verified, asked=asked, waves=[1, 1, 1, 1, 1, 2])
    assert pilot(lowest=0.25).next_waves(tally).tolist() == [[1, 2], [12, 12]]
    assert pilot(lowest=0.26, highest=0.74).next_waves(tally).tolist() == [[], []]
    assert pilot(lowest=0, highest=1).next_waves(tally)[0].tolist() == [0, 1, 2, 3]
    assert pilot(lowest=0).next_waves(tally_of([0], [0], asked=[4], ended=[4])).tolist() == [[], []]  # nothing known


def test_others_are_drawn_for_those_outside_the_bounds():
    tally = tally_of([0, 1, 4, 2], [4, 4, 4, 2], asked=[4, 16, 4, 4], ended=[4, 4, 4, 2], waves=[1, 2, 1, 1])
    assert pilot().wanted_prompts(tally) == 2
    assert pilot(max_draws=1.25).wanted_prompts(tally) == 1
    assert pilot(max_draws=1).wanted_prompts(tally) == 0


def test_groups_that_were_not_committed_to_do_not_train():
    for reward, reason in (
        ([1, 1, 1, 1], "too_easy"),
        ([0, 0, 0, 0], "deferred"),
        ([1, np.nan, 1, np.nan], "too_easy"),
    ):
        choice = pilot().select(Outcomes(np.array(reward, float), FLAT), [0])
        assert (choice.train_G.any(), choice.reason) == (False, reason)
    assert pilot().select(Outcomes(np.full(4, np.nan), FLAT), [0]).reason == "deferred"
    assert pilot().select(Outcomes(np.array([1.0] + [0.0] * 15), FLAT), [0]).train_G.all()


def test_perfect_pilots_are_never_asked_again_and_a_restart_remembers_them():
    first, again, forgetful = pilot(), pilot(), pilot(evict=False)
    tally = tally_of([4, 1, 0, 0], [4, 4, 4, 0], ended=[4, 4, 4, 4])
    for rule in (first, forgetful):
        rule.learn(groups_of(list("abcd")), tally)
    again.load(first.save())
    assert again.metrics() == {"allocation/prompts_evicted": 1.0}
    source = prompts_from("abcd")
    assert [p.key for p in again.draw(4, source, None, [0])] == ["b", "c", "d", "b"]
    assert [p.key for p in forgetful.draw(2, prompts_from("abcd"), None, [0])] == ["a", "b"]
    again.learn(groups_of(["c"]), tally_of([4], [4]))
    assert [p.key for p in again.draw(3, source, None, [0])] == ["d", "b", "d"]  # a stays away too


def test_the_survivors_of_a_pruned_pilot_prove_too_little():
    rule = pilot()
    rule.learn(groups_of(["a", "b"]), tally_of([2, 4], [2, 4], ended=[4, 4]))
    assert [p.key for p in rule.draw(2, prompts_from("abcd"), None, [0])] == ["a", "c"]


def test_a_pool_of_perfect_prompts_does_not_hang():
    rule = pilot()
    rule.learn(groups_of(["a"]), tally_of([4], [4]))
    assert [p.key for p in rule.draw(2, prompts_from("a"), None, [0])] == ["a", "a"]


def test_pilot_commit_fills_the_step_with_committed_groups():
    allocator = allocator_for(PilotCommitAllocation(pilot_size=4, commit_size=6), num_prompts=3)
    world = World({"a": 0.0, "b": 1.0, "c": 0.5, "d": 0.5, "e": 0.0, "f": 0.5}.get, seed=2)
    groups = world.rounds(allocator, prompts_from("abcdef"))
    lessons = allocator.lessons(groups)
    trained = [len(g.rollouts) for g, lesson in zip(groups, lessons, strict=True) if lesson.selection.train_G.any()]
    assert trained == [10, 10, 10]
    assert len(groups) <= 12


def best_value(rate, budget, least, most):
    """By dynamic programming over prompts, as in the paper."""
    best = {0: 0.0}
    for p in rate:
        gains = {n: float(rollouts_value(np.array(p), np.array(n))) for n in range(least, most + 1)}
        merged = {}
        for (used, found), (n, gain) in itertools.product(best.items(), gains.items()):
            merged[used + n] = max(merged.get(used + n, -1.0), found + gain)
        best = merged
    return max(found for used, found in best.items() if used <= budget)


def test_the_greedy_knapsack_is_the_dynamic_programme():
    rng = np.random.default_rng(1)
    for _ in range(60):
        count, least = int(rng.integers(1, 5)), int(rng.integers(1, 3))
        most = least + int(rng.integers(0, 7))
        rate = rng.choice([0.0, 0.02, 0.1, 0.3, 0.5, 0.5, 0.9, 1.0], count) if rng.random() < 0.5 else rng.random(count)
        budget = int(rng.integers(count * least, count * most + 3))
        size = knapsack_sizes(rate, budget, least=least, most=most)
        assert size.min() >= least
        assert size.max() <= most
        assert size.sum() == min(budget, count * most)
        assert rollouts_value(rate, size).sum() == pytest.approx(best_value(rate, budget, least, most), abs=1e-12)


def test_the_value_of_rollouts_by_hand():
    """p = 1/2, N = 2: (1 - 1/4 - 1/4) (1/2) (1/4); one rollout is never mixed."""
    assert rollouts_value(np.array(0.5), np.array(2)) == pytest.approx(1 / 16)
    assert rollouts_value(np.array([0.3, 0.0, 1.0]), np.array([1, 9, 9])) == pytest.approx([0, 0, 0])


@pytest.mark.parametrize("budget", [0, 5, 8])
def test_a_budget_below_the_floor_gives_the_floor(budget):
    assert knapsack_sizes(np.array([0.5, 0.1, 0.2, 0.9]), budget, least=2, most=9).tolist() == [2, 2, 2, 2]


def test_equal_prompts_share_equally():
    assert knapsack_sizes(np.full(5, 0.3), 23, least=2, most=9).tolist() == [5, 5, 5, 4, 4]


def test_knapsack_spends_the_budget_on_what_is_believed():
    """The easy prompt gets the floor, the hard one the most."""
    rule = Knapsack(KnapsackAllocation(), StepShape(3, 8))
    size = rule.first_waves([Belief(20, 1), Belief(3, 3), Belief(2, 12)])
    assert size.sum() == 24
    assert size[0] == 2
    assert size[2] == size.max()
    assert Knapsack(KnapsackAllocation(rollout_budget=12, max_group=5), StepShape(3, 8)).first_waves(
        [Belief(20, 1), Belief(3, 3), Belief(2, 12)]
    ).tolist() == [2, 5, 5]


def test_neyman_sizes_follow_the_spread_within_bounds_and_budget():
    rng = np.random.default_rng(0)
    for _ in range(60):
        count, least = int(rng.integers(1, 8)), int(rng.integers(2, 4))
        most = least + int(rng.integers(0, 12))
        spread = rng.uniform(0.01, 0.5, count)
        budget = int(rng.integers(count * least - 2, count * most + 3))
        size = neyman_sizes(spread, budget, least=least, most=most)
        assert size.sum() == np.clip(budget, count * least, count * most)
        assert size.min() >= least
        assert size.max() <= most
        order = np.argsort(spread)
        assert (np.diff(size[order]) >= -1).all(), "one rollout may be lost by rounding"


def test_neyman_sizes_by_hand():
    """size - 1 is 6, 3 and 3 for spreads of 2 : 1 : 1 and a budget of 15."""
    assert neyman_sizes(np.array([0.4, 0.2, 0.2]), 15, least=2, most=9).tolist() == [7, 4, 4]
    assert neyman_sizes(np.full(3, 0.3), 14, least=2, most=9).tolist() == [5, 5, 4]


def test_neyman_never_starves_a_prompt_for_one_unlucky_visit():
    rule = Neyman(NeymanAllocation(), StepShape(3, 8))
    size = rule.first_waves([Belief(1, 9), Belief(5, 5), Belief(5, 5)])
    assert size.sum() == 24
    assert 4 <= size[0] < size[1] == size[2]


def test_every_prompt_has_the_same_share_of_neymans_gradient():
    """The sum of (r - mean of the others) S over a group grows with its size minus 1; the factor takes that out."""
    rule, rng = Neyman(NeymanAllocation(), StepShape(4, 8)), np.random.default_rng(0)
    means = []
    for size in (2, 5, 20):
        reward_NG = (rng.random((20000, size)) < 0.4).astype(float)
        score_NG = reward_NG + rng.normal(size=reward_NG.shape)
        factor_G = rule.select(Outcomes(reward_NG[0], FLAT), (0,)).factor_G
        advantage_NG = reward_NG - reward_NG.mean(1, keepdims=True)
        means.append((factor_G * advantage_NG * score_NG).sum(1).mean())
    np.testing.assert_allclose(means, 7 * 0.24, rtol=0.05)
