"""Where selection, baseline and correction meet."""

import numpy as np
import pytest

from arrol.algorithms.advantages import group_signal
from arrol.algorithms.allocation.selection import Selection, cppo, empty, pods, rejected, whole
from arrol.algorithms.lesson import Lesson, Observed, lesson_signal, without_unrewarded
from arrol.algorithms.mc_grpo import median_signal
from arrol.algorithms.posterior import Belief
from arrol.configs.allocation import PosteriorConfig
from arrol.configs.method import DrGrpoConfig, GrpoConfig, McGrpoConfig

REWARD = np.array([1.0, 0, np.nan, 0, 1, 0])
SURVIVAL = np.array([0.5, 0.8, 0.4, 1, 1, 0.5])
QUALITY = np.array([0.6, 0.2, 0.3, np.nan, np.nan, 0.1])
NO_QUALITY = np.full(6, np.nan)


def signal(lesson, config, reward=REWARD, survival=SURVIVAL, quality=QUALITY):
    seen = Observed(np.array(reward, float), np.array(survival, float), np.array(quality, float))
    return lesson_signal(seen, lesson, config, posterior=PosteriorConfig())


@pytest.mark.parametrize("correction", ["plain", "ipw", "doubly_robust"])
@pytest.mark.parametrize("kind", [GrpoConfig, DrGrpoConfig])
def test_a_whole_group_has_the_signal_of_its_correction(kind, correction):
    config = kind(correction=correction)
    found = signal(Lesson(whole(6)), config)
    plain = group_signal(REWARD, SURVIVAL, QUALITY, config, normalize_by_std=config.normalize_by_std)
    np.testing.assert_array_equal(found.advantage_G, plain.advantage_G)
    np.testing.assert_array_equal(found.weight_G, plain.weight_G)
    assert found.effective_rollouts == plain.effective_rollouts


def test_a_belief_comes_before_the_rewards_of_the_group():
    found = signal(Lesson(whole(6), Belief(3, 1)), DrGrpoConfig())
    assert found.baseline == 0.75
    assert found.advantage_G == pytest.approx([0.25, -0.75, 0, -0.75, 0.25, -0.75])


def test_mc_grpo_has_its_own_signal():
    found = signal(Lesson(whole(6)), McGrpoConfig())
    own = median_signal(REWARD, normalize_by_std=True)
    np.testing.assert_array_equal(found.advantage_G, own.advantage_G)
    np.testing.assert_array_equal(found.weight_G, own.weight_G)


def test_pods_is_grpo_on_its_subset_and_cppo_keeps_the_advantages_of_the_group():
    reward, config = np.array([0.0, 0.1, 0.2, 0.7, 0.9, 1.0]), DrGrpoConfig()
    options = {"reward": reward, "survival": np.ones(6), "quality": NO_QUALITY}
    choice = pods(reward, 4, [0])
    assert np.flatnonzero(choice.train_G).tolist() == [0, 1, 4, 5]
    found = signal(Lesson(choice), config, **options)
    assert found.advantage_G == pytest.approx([-0.5, -0.4, 0, 0, 0.4, 0.5])
    assert found.effective_rollouts == 4
    choice = cppo(reward, 4, [0])
    found, mean = signal(Lesson(choice), config, **options), reward.mean()
    assert found.advantage_G == pytest.approx(np.where(choice.train_G, reward - mean, 0))
    assert abs(found.advantage_G.sum()) > 0.01  # not re-normalised
    assert found.effective_rollouts == 4


@pytest.mark.parametrize("correction", ["ipw", "doubly_robust"])
def test_a_subset_of_survivors_has_a_mean_within_its_rewards(correction):
    """Each weighs 2: divided by the subset's size instead of its weights the baseline would be twice the mean."""
    reward, choice = [1, 1, 0, 0], Selection(np.array([True, True, True, False]), np.ones(4), "kept")
    config = DrGrpoConfig(correction=correction, leave_one_out=False)
    found = signal(Lesson(choice), config, reward, np.full(4, 0.5), np.full(4, 0.5))
    assert found.baseline == pytest.approx(2 / 3)
    assert found.advantage_G == pytest.approx([1 / 3, 1 / 3, -2 / 3, 0])
    assert found.effective_rollouts == 6


def test_a_dropped_group_costs_nothing():
    found = signal(Lesson(empty(6, "uniform"), Belief(1, 1)), DrGrpoConfig())
    assert not found.advantage_G.any()
    assert not found.weight_G.any()
    assert found.effective_rollouts == 0


def test_an_ignored_rollout_leaves_the_group_as_it_would_be_without_it():
    ignored = np.array([False, False, False, True, False, False])
    rest = ~ignored
    for config in (DrGrpoConfig(), GrpoConfig(correction="plain"), McGrpoConfig()):
        found = signal(Lesson(whole(6), ignored_G=ignored), config)
        without = signal(Lesson(whole(5)), config, REWARD[rest], SURVIVAL[rest], QUALITY[rest])
        np.testing.assert_array_equal(found.advantage_G[rest], without.advantage_G)
        np.testing.assert_array_equal(found.weight_G[rest], without.weight_G)
        assert found.weight_G[3] == found.advantage_G[3] == 0
        assert found.effective_rollouts == without.effective_rollouts


def test_each_rollout_that_is_left_out_has_one_reason():
    right, wrong = REWARD == 1, REWARD == 0
    choice = rejected(right, wrong & (np.arange(6) != 5), 1, "all", [0])
    ignored = np.arange(6) == 5
    reasons = Lesson(choice, ignored_G=ignored).left_out_G
    assert reasons[5] == "truncated"
    assert sorted(reasons) == ["", "", "", "rejected", "rejected", "truncated"]
    assert Lesson(whole(2)).left_out_G == ["", ""]
    assert Lesson(empty(2, "uniform")).left_out_G == ["uniform", "uniform"]


@pytest.mark.parametrize("config", [GrpoConfig(), DrGrpoConfig(correction="ipw"), McGrpoConfig()])
@pytest.mark.parametrize("size", [0, 1, 3])
@pytest.mark.parametrize("baseline", ["all", "kept"])
def test_groups_without_outcomes_have_no_signal(config, size, baseline):
    choice = Selection(np.zeros(size, bool), np.ones(size), baseline)
    found = signal(Lesson(choice), config, np.full(size, np.nan), np.ones(size), np.full(size, np.nan))
    assert len(found.advantage_G) == len(found.weight_G) == size
    assert not found.weight_G.any()


def test_a_rollout_without_a_reward_leaves_the_group_as_it_would_be_without_it():
    config, unrewarded = DrGrpoConfig(), np.array([False, True, False])
    lesson = Lesson(whole(3))
    assert without_unrewarded(lesson, np.zeros(3, bool)) is lesson
    lesson = without_unrewarded(lesson._replace(ignored_G=np.array([True, False, False])), unrewarded)
    assert lesson.excluded_G.tolist() == [True, True, False]
    assert lesson.left_out_G == ["truncated", "unrewarded", ""]
    lesson = without_unrewarded(Lesson(whole(3)), unrewarded)
    posterior = PosteriorConfig()
    seen = Observed(np.array([1.0, np.nan, 0.0]), np.ones(3), np.full(3, np.nan))
    found = lesson_signal(seen, lesson, config, posterior=posterior)
    alone = lesson_signal(seen.of(np.array([0, 2])), Lesson(whole(2)), config, posterior=posterior)
    assert found.advantage_G.tolist() == [alone.advantage_G[0], 0.0, alone.advantage_G[1]] == [0.5, 0.0, -0.5]
    assert found.weight_G.tolist() == [1.0, 0.0, 1.0]
    assert found.effective_rollouts == 2
