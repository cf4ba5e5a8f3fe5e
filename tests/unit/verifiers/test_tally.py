"""Means and counts of what reward functions gave; a step in which every call failed ends the run."""

import math

import pytest

from arrol.errors import DataError
from arrol.types import Verdict
from arrol.verifiers.tally import RewardTally

NAN = math.nan


def verdict(reward, *parts, failed=False):
    return Verdict(reward, None, parts=tuple(parts), failed=failed, reason="task.reward = 'm:f': row 'a': E" * failed)


def test_means_failures_and_missing_rewards():
    tally = RewardTally([verdict(2.0, ("a", 1.0), ("b", 1.0)), verdict(1.0, ("a", 1.0), ("b", NAN))])
    tally.add(verdict(NAN, ("a", NAN), ("b", 3.0), failed=True))
    tally.add(verdict(NAN, ("a", NAN), ("b", NAN)))
    assert tally.metrics("reward") == {
        "reward/mean": 1.5,
        "reward/a/mean": 1.0,
        "reward/b/mean": 2.0,
        "reward/failed": 1.0,
        "reward/missing": 1.0,
    }
    tally.require_one("step 3")


def test_verdicts_of_a_verifier_are_passed_over():
    tally = RewardTally([Verdict(1.0, "4"), Verdict(NAN, None)])
    assert tally.metrics("reward") == {}
    tally.require_one("step 1")
    RewardTally().require_one("step 1")


def test_all_failed_is_one_line_with_the_first_failure():
    tally = RewardTally([verdict(NAN, ("a", NAN), failed=True)] * 3)
    with pytest.raises(DataError) as caught:
        tally.require_one("step 3")
    assert str(caught.value) == (
        "task.reward = 'm:f': row 'a': E; all 3 rewards of step 3 failed, the first like this: mend the function"
    )
    assert math.isnan(tally.metrics("reward")["reward/mean"])
    tally.add(verdict(NAN, ("a", NAN)))
    tally.require_one("step 3")
