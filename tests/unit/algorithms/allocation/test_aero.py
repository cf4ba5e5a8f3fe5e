"""AERO: strata, order of spending, what trains, and what rescue does to estimates of a rate."""

from fractions import Fraction

import numpy as np
import pytest

from arrol.algorithms.allocation.aero import Aero, Stratum, next_waves, select, strata
from arrol.algorithms.allocation.rule import Outcomes, StepShape, Tally
from arrol.algorithms.lesson import Lesson, Observed, lesson_signal
from arrol.algorithms.posterior import Belief
from arrol.configs.allocation import AeroAllocation, PosteriorConfig
from arrol.configs.method import GrpoConfig
from rollouts import World, allocator_for, prompts_from, tally_of

SHAPE = StepShape(4, 8)
KEY = [0, 4, 1, 0]


def aero(**options):
    return AeroAllocation.model_validate(options)


def waves(tally, **options):
    """Prompt -> size, in the order of the requests; rescues may go on to twice the group."""
    return dict(next_waves(tally, aero(**{"max_group": 16, **options}), SHAPE).T.tolist())


def test_the_stratum_of_every_count_up_to_sixteen():
    """By exact fractions; 0 of 0 is a prompt that nothing is known of."""
    assert strata(np.array([0]), np.array([0])).tolist() == [Stratum.RESCUE]
    for verified in range(1, 17):
        for right in range(verified + 1):
            rate = Fraction(right, verified)
            expected = Stratum.RESCUE if rate <= 0 else Stratum.LOW if rate < Fraction(1, 2) else Stratum.HIGH
            assert strata(np.array([right]), np.array([verified])).tolist() == [expected]


def test_the_budget_and_the_ceiling_follow_the_group_unless_they_are_set():
    tally = tally_of([0, 4, 4, 4], [4] * 4)
    assert waves(tally, max_group=0, rescue_step=99) == {0: 4}
    assert waves(tally, max_group=7, rescue_step=99) == {0: 3}
    assert waves(tally, rescue_step=99) == {0: 12}
    assert waves(tally, rescue_step=99, rollout_budget=20) == {0: 4}


def test_prompts_without_success_come_first_and_the_others_wait_for_what_they_may_claim():
    """16 asked, 16 left; one rescue may claim 12 of them, so one of two low prompts is filled up, and no high one."""
    tally = tally_of([1, 0, 1, 2], [4] * 4)
    assert waves(tally) == {1: 2, 0: 4}
    assert waves(tally_of([1, 0, 0, 2], [4] * 4)) == {1: 2, 2: 2}
    assert waves(tally_of([1, 1, 1, 2], [4] * 4)) == {0: 4, 1: 4, 2: 4}
    assert waves(tally_of([1, 1, 1, 2], [4] * 4), top_up_easy=True) == {0: 4, 1: 4, 2: 4, 3: 4}


def test_prompts_that_are_still_explored_keep_their_claim():
    """Nothing is known of the last one: it may need 12 more."""
    tally = tally_of([1, 1, 2, 0], [4, 4, 4, 0], asked=[4] * 4)
    assert waves(tally) == {0: 4}


def test_no_prompt_is_asked_while_its_rollouts_run():
    tally = tally_of([0, 0, 1, 0], [4, 3, 1, 4], asked=[4] * 4, ended=[4, 3, 3, 4])
    assert waves(tally) == {0: 2, 3: 2}


def test_fewest_waves_then_the_highest_posterior_mean_come_first():
    tally = tally_of([0] * 4, [4] * 4, waves=[2, 1, 1, 1], mean=[0.9, 0.1, 0.3, 0.2])
    assert list(waves(tally)) == [2, 3, 1, 0]
    assert list(waves(tally, posterior={"used_for": "advantage"})) == [1, 2, 3, 0]  # where it may not say so


def test_the_last_rescue_takes_what_the_budget_leaves():
    tally = tally_of([0] * 4, [4] * 4)
    assert waves(tally, rollout_budget=21, rescue_step=2) == {0: 2, 1: 2, 2: 1}
    assert waves(tally, rollout_budget=16) == {}
    assert waves(tally, max_group=5) == {0: 1, 1: 1, 2: 1, 3: 1}
    assert waves(tally, max_group=4) == {}


def test_a_rescued_prompt_is_put_in_a_stratum_again():
    """1 of 6 is low now and filled up; 2 of 4 was never in need."""
    tally = tally_of([1, 2, 4, 4], [6, 4, 4, 4], waves=[2, 1, 1, 1])
    assert waves(tally) == {0: 2}


def test_rescue_rollouts_are_not_stopped_unless_allowed():
    tally = tally_of([0, 1, 4], [4, 4, 4])
    assert Aero(aero(), SHAPE).may_prune(tally).tolist() == [False, True, True]
    assert Aero(aero(prune_rescue=True), SHAPE).may_prune(tally).all()


def outcome(right, wrong, unverified=0):
    reward_G = np.array([1.0] * right + [0.0] * wrong + [np.nan] * unverified)
    return Outcomes(reward_G, Belief(1, 1).updated(right, wrong))


def kept(right, wrong, **options):
    """Right and wrong rollouts that train."""
    train_G = select(outcome(right, wrong, 1), aero(**options), KEY).train_G[: right + wrong]
    return int(train_G[:right].sum()), int(train_G[right:].sum())


@pytest.mark.parametrize(("ratio", "right", "wrong"), [(1, 2, 14), (2, 2, 14), (3, 4, 12), (0.5, 4, 12)])
def test_the_kept_success_rate_is_one_over_one_plus_the_ratio(ratio, right, wrong):
    found = kept(right, wrong, rejection={"wrong_ratio": ratio})
    assert found == (right, ratio * right)
    assert found[0] / sum(found) == pytest.approx(1 / (1 + ratio))


def test_where_wrong_ones_are_scarce_all_of_them_stay():
    assert kept(3, 4, rejection={"wrong_ratio": 2}) == (3, 4)
    assert kept(1, 7, rejection={"wrong_ratio": 0.1}) == (1, 1)


def test_high_groups_train_whole_unless_mirrored():
    assert kept(6, 2) == (6, 2)
    assert kept(4, 4, rejection={"mirror": True}) == (4, 4)
    assert kept(6, 2, rejection={"mirror": True}) == (2, 2)
    assert kept(7, 1, rejection={"mirror": True, "wrong_ratio": 3}) == (3, 1)


@pytest.mark.parametrize(("right", "wrong"), [(8, 0), (0, 8), (0, 12)])
def test_uniform_groups_teach_through_the_posterior_or_not_at_all(right, wrong):
    """``explore_size`` of them train and stand for the others."""
    choice = select(outcome(right, wrong), aero(), KEY)
    assert choice.train_G.sum() == 4
    assert choice.factor_G[choice.train_G].sum() == right + wrong
    assert choice.is_whole
    for used_for in ("nothing", "allocation"):
        for baseline in ("corrected", "all", "kept"):
            options = {"posterior": {"used_for": used_for}, "rejection": {"baseline": baseline}}
            dropped = select(outcome(right, wrong), aero(**options), KEY)
            assert (dropped.train_G.any(), dropped.reason) == (False, "uniform")
            assert dropped.is_whole == (baseline == "corrected"), "the full group counts in its loss"


def test_a_group_without_outcomes_trains_no_rollout():
    for used_for in ("both", "nothing"):
        assert not select(outcome(0, 0, 4), aero(posterior={"used_for": used_for}), KEY).train_G.any()


def signal(right, wrong, baseline, ratio):
    choice = select(outcome(right, wrong), aero(rejection={"wrong_ratio": ratio, "baseline": baseline}), KEY)
    reward_G = outcome(right, wrong).reward_G
    seen = Observed(reward_G, np.ones(len(reward_G)), np.full(len(reward_G), np.nan))
    config = GrpoConfig(correction="plain")
    return lesson_signal(seen, Lesson(choice), config, posterior=PosteriorConfig()), choice


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_kept_advantages_are_those_of_the_kept_rate_and_corrected_ones_those_of_the_group(ratio):
    """sqrt(k) and -1/sqrt(k) against sqrt((1-u)/u) and its negative inverse."""
    right, wrong = 2, 14
    found, choice = signal(right, wrong, "kept", ratio)
    trained = found.advantage_G[choice.train_G]
    assert trained[:right] == pytest.approx(np.sqrt(ratio), rel=1e-4)
    assert trained[right:] == pytest.approx(-1 / np.sqrt(ratio), rel=1e-4)
    assert found.effective_rollouts == right * (1 + ratio)
    for baseline, effective_rollouts in (("all", right * (1 + ratio)), ("corrected", 16)):
        found, choice = signal(right, wrong, baseline, ratio)
        trained = found.advantage_G[choice.train_G]
        assert trained[:right] == pytest.approx(np.sqrt(7), rel=1e-4)
        assert trained[right:] == pytest.approx(-1 / np.sqrt(7), rel=1e-4)
        assert found.effective_rollouts == found.weight_G.sum() == effective_rollouts


def sample(rate_P, config, shape, rng):
    """The rescue loop on counts: everything that was asked ends, then the rule is asked again."""
    explored = np.full(len(rate_P), config.explore_size)
    tally = tally_of(rng.binomial(explored, rate_P), explored)
    asked_P, right_P, waves_P = tally.asked_P.copy(), tally.right_P.copy(), tally.waves_P.copy()
    while True:
        mean_P = (right_P + config.posterior.prior_right) / (
            asked_P + config.posterior.prior_right + config.posterior.prior_wrong
        )
        found = next_waves(Tally(asked_P, asked_P, asked_P, right_P, waves_P, mean_P), config, shape)
        if not found.size:
            return right_P, asked_P
        prompts, size_N = found
        right_P[prompts] += rng.binomial(size_N, rate_P[prompts])
        asked_P[prompts] += size_N
        waves_P[prompts] += 1


@pytest.mark.parametrize(
    ("rate", "mean_rate", "pooled", "with_success", "size"),
    [(0.02, 0.041, 0.020, 0.28, 14.0), (0.05, 0.091, 0.050, 0.56, 11.7), (0.10, 0.156, 0.100, 0.82, 9.0)],
)
def test_rescue_makes_the_mean_rate_too_large_but_not_the_pooled_one(rate, mean_rate, pooled, with_success, size):
    """Explore 4, then 2 at a time up to 16; 40,000 prompts."""
    config = aero(max_group=16, rollout_budget=1_000_000)
    right_P, asked_P = sample(np.full(40_000, rate), config, StepShape(40_000, 4), np.random.default_rng(0))
    assert (right_P / asked_P).mean() == pytest.approx(mean_rate, abs=2e-3)
    assert right_P.sum() / asked_P.sum() == pytest.approx(pooled, abs=1.5e-3)
    assert (right_P > 0).mean() == pytest.approx(with_success, abs=0.01)
    assert asked_P.mean() == pytest.approx(size, abs=0.1)
    assert asked_P.max() == 16


@pytest.mark.parametrize("prior", [(1.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("group_size", [4, 12])
def test_the_posterior_is_calibrated_under_rescue_and_the_rate_is_not(prior, group_size):
    """Rates drawn from the prior: in every cell of counts their mean is the posterior mean."""
    rng = np.random.default_rng(5)
    rate_P = rng.beta(*prior, 100_000)
    config = aero(max_group=16, rollout_budget=1_000_000, posterior={"prior_right": prior[0], "prior_wrong": prior[1]})
    right_P, asked_P = sample(rate_P, config, StepShape(len(rate_P), group_size), rng)
    misses, naive = [], []
    for right, asked in {*zip(right_P.tolist(), asked_P.tolist(), strict=True)}:
        cell = rate_P[(right_P == right) & (asked_P == asked)]
        if len(cell) >= 100:
            error = np.sqrt(cell.var() / len(cell))
            misses.append((cell.mean() - Belief(*prior).updated(right, asked - right).mean) / error)
            naive.append((cell.mean() - right / asked) / error)
    assert len(misses) > 8
    assert np.abs(misses).max() < 4.5
    assert np.abs(naive).max() > 20


def test_beliefs_of_the_whole_machine_are_calibrated_too():
    """The same through the allocator, 2,000 prompts, with stopped and failed rollouts among them."""
    rng = np.random.default_rng(2)
    rates = {f"p{number}": float(rate) for number, rate in enumerate(rng.beta(1, 1, 2000))}
    allocator = allocator_for(aero(max_group=16, prune_rescue=True), num_prompts=2000)
    world = World(rates.get, survival=lambda right: 0.6, error=0.05)
    groups = world.rounds(allocator, prompts_from(rates))
    beliefs = [lesson.belief for lesson in allocator.lessons(groups)]
    cells = {}
    for group, belief in zip(groups, beliefs, strict=True):
        cells.setdefault(belief, []).append(rates[group.prompt.key])
    found = [
        (np.mean(cell) - belief.mean) / np.sqrt(np.var(cell) / len(cell))
        for belief, cell in cells.items()
        if len(cell) >= 40
    ]
    assert len(found) >= 8
    assert np.abs(found).max() < 4
