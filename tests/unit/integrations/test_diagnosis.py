"""Findings inside a host: from what trains, in the host's words."""

import re

import numpy as np
import pytest

from arrol.integrations.diagnosis import HostDiagnosis, reward_metrics
from arrol.integrations.trl.advice import ADVICE as TRL
from arrol.integrations.verl.advice import ADVICE as VERL
from arrol.records.diagnosis import IN_A_ROW, KINDS

HEALTHY = {
    "rollout/finish/stop": 30.0,
    "rollout/finish/length": 2.0,
    "rollout/success_frac_before": 0.3,
    "quality/head_loss": 0.6,
}
MIXED = [np.array([1.0, 0.0, np.nan]), np.array([0.0, 0.0, 0.0])]
EQUAL = [np.array([0.4, 0.4, np.nan]), np.array([0.4, 0.4, 0.4])]
NONE = [np.full(3, np.nan)] * 2


def lines(metrics, totals, *, steps=IN_A_ROW, **options):
    """What is said during these steps, and at their end."""
    diagnosis = HostDiagnosis(TRL)
    during = [line for _ in range(steps) for line in diagnosis.look(metrics, totals, **options)]
    return during, diagnosis.at_end()


def test_rewards_are_counted_over_what_trains():
    found = reward_metrics(MIXED)
    assert found["reward/mean"] == pytest.approx(0.2)
    assert (found["rollout/survivors_frac"], found["rollout/dead_group_frac"]) == (5 / 6, 0.5)
    assert found["rollout/reward_std"] == pytest.approx(0.4)
    empty = reward_metrics(NONE)
    assert np.isnan([empty["reward/mean"], empty["rollout/reward_std"]]).all()
    assert (empty["rollout/survivors_frac"], empty["rollout/dead_group_frac"]) == (0, 1)


def test_a_run_that_learns_says_nothing():
    assert lines(HEALTHY, MIXED, steps=20) == ([], [])


@pytest.mark.parametrize(
    ("metrics", "totals", "expected"),
    [
        (HEALTHY, EQUAL, "every rollout got the reward 0.4"),
        (HEALTHY, [np.array([0.0, 0.0]), np.array([1.0, 1.0])], "the rollouts of every prompt got equal rewards"),
        (HEALTHY, NONE, "no rollout got a reward"),
        ({**HEALTHY, "rollout/finish/stop": 0.0}, MIXED, "every completion that was not stopped met the length limit"),
        ({**HEALTHY, "rollout/success_frac_before": 1.0}, MIXED, "the quality head saw right rollouts only"),
        ({**HEALTHY, "rollout/success_frac_before": np.nan}, MIXED, "no rollout was known to be right or wrong"),
    ],
)
def test_each_reason_is_said_once_while_it_trains_and_once_at_the_end(metrics, totals, expected):
    during, ended = lines(metrics, totals, steps=3 * IN_A_ROW)
    assert len(during) == 1
    assert during[0].startswith(expected)
    assert [line for line in ended if line.startswith(expected)] == [ended[-1]]


def test_four_steps_are_too_few_to_say_it_meanwhile():
    during, ended = lines(HEALTHY, EQUAL, steps=IN_A_ROW - 1)
    assert during == []
    assert ended[0] == "nothing was learned: no rollout trained in any of 4 steps"


def test_groups_with_equal_rewards_that_train_all_the_same_are_no_idle_run():
    _, ended = lines(HEALTHY, EQUAL, has_signal=True)
    assert [line.split(" in each")[0] for line in ended] == ["every rollout got the reward 0.4"]


@pytest.mark.parametrize("advice", [TRL, VERL])
def test_a_host_has_advice_for_every_kind_and_names_no_flag_of_ours(advice):
    assert list(advice) == list(KINDS)
    assert [text for text in advice.values() if "--" in text or "arrol eval" in text] == []


def test_names_of_trl_are_trls():
    names = set(re.findall(r"[a-z]+(?:_[a-z]+)+", " ".join(TRL.values())))
    assert names == {
        "log_completions",
        "max_completion_length",
        "num_generations",
        "reward_funcs",
        "success_reward",
        "success_threshold",
        "train_dataset",
    }
