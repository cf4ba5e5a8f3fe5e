"""The Beta posterior of a success rate: closed forms, the table of an all-right group, and what visits leave behind."""

import numpy as np
import pytest

from arrol.algorithms.advantages import EPSILON
from arrol.algorithms.posterior import Belief, posterior_signal, prior_belief, rate_variance
from arrol.configs.allocation import PosteriorConfig
from arrol.configs.method import DrGrpoConfig, GrpoConfig
from arrol.quality.buffer import PromptHistory


def signal(reward, prior=(1.0, 1.0), *, survival=None, std=True, algorithm=None, **options):
    """Of a group whose belief is the prior and its own verified rewards."""
    reward_G = np.array(reward, float)
    kept = reward_G[~np.isnan(reward_G)]
    belief = Belief(*prior).updated(kept.sum(), (1 - kept).sum())
    return posterior_signal(
        reward_G,
        np.ones(len(reward_G)) if survival is None else np.array(survival, float),
        belief,
        algorithm or GrpoConfig(),
        posterior=PosteriorConfig(max_dead_zone_advantage=9, **options),
        normalize_by_std=std,
    )


@pytest.mark.parametrize(
    ("size", "undivided", "at_mean", "expected", "of_the_rate"),
    [(4, 0.167, 0.447, 0.483, 1.183), (8, 0.100, 0.333, 0.350, 1.106), (16, 0.056, 0.243, 0.249, 1.057)],
)
def test_the_table_of_an_all_right_group(size, undivided, at_mean, expected, of_the_rate):
    """And of its mirror; dividing by the spread of the rate itself, the last column, is what we do not do."""
    for reward, sign in (([1] * size, 1), ([0] * size, -1)):
        assert sign * signal(reward, std=False).advantage_G == pytest.approx(undivided, abs=1e-3)
        assert sign * signal(reward).advantage_G == pytest.approx(at_mean, abs=1e-3)
        assert sign * signal(reward, spread="expected").advantage_G == pytest.approx(expected, abs=1e-3)
    right, wrong = Belief(1, 1).updated(size, 0)
    rate_spread = np.sqrt(right * wrong / (right + wrong) ** 2 / (right + wrong + 1))
    assert wrong / (right + wrong) / rate_spread == pytest.approx(of_the_rate, abs=1e-3)


@pytest.mark.parametrize("prior", [(1, 1), (0.5, 0.5), (0.1, 2), (3, 0.2)])
@pytest.mark.parametrize("size", [1, 2, 7, 16])
def test_uniform_groups_have_closed_forms(prior, size):
    """sqrt(b0 / (a0 + n)) and -sqrt(a0 / (b0 + n)), but for the epsilon."""
    a0, b0 = prior
    assert signal([1] * size, prior).advantage_G == pytest.approx(np.sqrt(b0 / (a0 + size)), rel=1e-4)
    assert signal([0] * size, prior).advantage_G == pytest.approx(-np.sqrt(a0 / (b0 + size)), rel=1e-4)


@pytest.mark.parametrize("kind", ["mean", "expected"])
@pytest.mark.parametrize("size", [1, 2, 16, 10_000])
def test_advantages_are_finite_for_every_outcome(kind, size):
    for right in {0, 1, size // 2, size}:
        found = signal([1] * right + [0] * (size - right), (1e-3, 1e-3), spread=kind)
        assert np.isfinite(found.advantage_G).all()
        assert found.spread > EPSILON


def test_variances_of_an_outcome_by_hand():
    """Beta(3, 1): 3/16, and 3/20 averaged over the posterior."""
    assert rate_variance(Belief(3, 1), "mean") == pytest.approx(3 / 16)
    assert rate_variance(Belief(3, 1), "expected") == pytest.approx(3 / 20)
    rate = np.random.default_rng(0).beta(3, 1, 200_000)
    assert rate_variance(Belief(3, 1), "expected") == pytest.approx((rate * (1 - rate)).mean(), abs=2e-3)


def test_a_mixed_group_by_hand():
    """1 right of 3 under Beta(1, 1): mean 2/5, spread sqrt(6)/5."""
    found = signal([1, 0, 0])
    assert found.advantage_G == pytest.approx(np.array([0.6, -0.4, -0.4]) / (np.sqrt(6) / 5 + EPSILON))
    assert (found.baseline, found.spread) == (pytest.approx(0.4), pytest.approx(np.sqrt(6) / 5))
    assert found.weight_G.tolist() == [1, 1, 1]
    assert found.effective_rollouts == 3


@pytest.mark.parametrize(("reward", "limited"), [([0, 0], -0.25), ([0, 1], -1.0), ([1, 1], 0.577)])
@pytest.mark.parametrize("std", [True, False])
def test_the_limit_holds_in_all_wrong_groups_alone(reward, limited, std):
    found = posterior_signal(
        np.array(reward, float),
        np.ones(2),
        Belief(1, 1).updated(sum(reward), 2 - sum(reward)),
        GrpoConfig(),
        posterior=PosteriorConfig(),
        normalize_by_std=std,
    )
    assert found.advantage_G[0] == pytest.approx(limited * (1 if std or reward == [0, 0] else found.spread), abs=1e-3)


def test_stopped_rollouts_teach_nothing_and_survivors_weigh_what_the_estimator_says():
    reward, survival = [1, np.nan, 0], [0.5, 0.5, 1]
    weighted = signal(reward, survival=survival, algorithm=DrGrpoConfig())
    assert weighted.weight_G.tolist() == [2, 0, 1]
    assert weighted.advantage_G[1] == 0
    assert weighted.effective_rollouts == 3
    assert signal(reward, survival=survival, algorithm=DrGrpoConfig(self_normalized=True)).effective_rollouts == 3
    plain = signal(reward, survival=survival, algorithm=DrGrpoConfig(correction="plain"))
    assert plain.weight_G.tolist() == [1, 0, 1]
    assert plain.effective_rollouts == 2


def test_a_group_without_outcomes_has_no_signal():
    found = signal([np.nan, np.nan])
    assert found.advantage_G.tolist() == found.weight_G.tolist() == [0, 0]
    empty = signal([])
    assert len(empty.advantage_G) == empty.effective_rollouts == 0


def test_earlier_visits_count_less_each_time():
    """a = 1 + d (3 + d 1), b = 1 + d (1 + d 3) after visits of (1 right, 3 wrong), then (3, 1), with d = 1/2."""
    history = PromptHistory(discount=0.5)
    history.observe("p", 1, 4)
    history.observe("p", 3, 4)
    config = PosteriorConfig()
    assert prior_belief(config, history, "p") == pytest.approx((1 + 0.5 * 3.5, 1 + 0.5 * 2.5))
    assert prior_belief(config, history, "new") == (1, 1)
    assert prior_belief(PosteriorConfig(prior_right=0.2, prior_wrong=3), history, "new") == (0.2, 3)


def test_visits_are_the_recursion_of_the_source():
    """a <- d a + (1 - d) a0 + s, the same for b (arXiv 2507.04632)."""
    rng, history, d = np.random.default_rng(3), PromptHistory(discount=0.7), 0.7
    a, b = a0, b0 = 0.8, 1.7
    for _ in range(6):
        right, wrong = rng.integers(0, 5, 2)
        a, b = d * a + (1 - d) * a0 + right, d * b + (1 - d) * b0 + wrong
        belief = prior_belief(PosteriorConfig(prior_right=a0, prior_wrong=b0), history, "p").updated(right, wrong)
        history.observe("p", right, right + wrong)
        assert belief == pytest.approx((a, b))
