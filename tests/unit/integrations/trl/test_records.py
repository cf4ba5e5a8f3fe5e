"""Which numbers of a TRL batch stand in its record."""

import math

import numpy as np
import pytest

from arrol.algorithms.allocation.selection import Selection
from arrol.algorithms.lesson import Lesson
from arrol.integrations.trl.batch import RewardedGroup
from arrol.integrations.trl.records import TrlRecords, recorded_groups
from arrol.integrations.trl.signal import GroupAdvantages

from ..groups import group_of


def rewarded():
    """Right, stopped, wrong, and one without a reward."""
    group = group_of([1, 0, 1, 1], [0.5, 0.5, 1.0, 1.0], [1.0, None, 0.0, None])
    return RewardedGroup(group, np.array([1.2, np.nan, -0.5, np.nan]), np.array([1.0, np.nan, 0.0, np.nan]))


KNOWN = GroupAdvantages(np.array([2.0, 0.0, -0.5, 0.0]), np.array([2.0, 0.0, 1.0, 1.0]), 4.0)


def test_the_reward_is_what_trl_trains_on_and_success_stands_beside_it():
    each = rewarded()
    (found,) = recorded_groups([each], [KNOWN], None, [np.array([0.7, 0, -0.7, 0])])
    assert [rollout.reward for rollout in found.group.rollouts] == [1.2, None, -0.5, None]
    success = [rollout.success for rollout in found.group.rollouts]
    assert success[:3] == [1.0, None, 0.0]
    assert math.isnan(success[3])
    assert found.left_out_G == ["", "", "", "unrewarded"]
    assert found.advantage_G.tolist() == [0.7, 0, -0.7, 0]
    assert [rollout.reward for rollout in each.group.rollouts] == [
        1.0,
        None,
        0.0,
        None,
    ]  # labels of the head, untouched


def test_our_advantages_stand_without_their_weights_and_with_the_rules_reasons():
    lesson = Lesson(Selection(np.array([True, True, False, True]), np.ones(4), reason="pods"))
    (found,) = recorded_groups([rewarded()], [KNOWN], [lesson])
    assert found.advantage_G.tolist() == [1.0, 0.0, -0.5, 0.0]
    assert found.weight_G.tolist() == [2.0, 0.0, 1.0, 1.0]
    assert found.left_out_G == ["", "", "pods", "unrewarded"]


class Written:
    """In place of the files."""

    def __init__(self):
        self.rows = []

    def begin(self, run, step):
        self.rows.append(("begin", step))

    def write_groups(self, groups, probe_tokens):
        self.rows.append(("groups", list(probe_tokens)))

    def write_step(self, step, metrics):
        self.rows.append(("step", step, metrics))

    def write_eval(self, record):
        self.rows.append(("eval", record.step, record.accuracy))

    def sync(self):
        self.rows.append(("sync",))

    def end(self, outcome, message):
        self.rows.append(("end", outcome))

    def take_seconds(self):
        return 0.5


@pytest.fixture
def clocked(monkeypatch):
    """Records, what they wrote, and a clock that is set by hand."""
    clock = [0.0]
    monkeypatch.setattr("arrol.integrations.trl.records.time.monotonic", lambda: clock[0])
    written = Written()
    return TrlRecords(written, lambda: None), written.rows, clock


def batch(records, clock, step):
    records.begin(step - 1)
    records.begin_batch()
    for phase, seconds in (("generate", 4.0), ("verify", 2.0), ("estimate", 1.0)):
        clock[0] += seconds
        records.lap(phase)
    clock[0] += 100.0  # writing is no part of the step
    records.settled(step, [rewarded()], list, {"tokens/generated": 10.0}, [4])


def test_a_step_is_written_when_the_next_one_begins(clocked):
    records, rows, clock = clocked
    batch(records, clock, 1)
    assert rows == [("begin", 0), ("groups", [4])]
    records.log({"loss": 1.0, "arrol/x": 9, "eval_reward": 9, "train_loss": 9, "note": "text"})
    records.log({"loss": 3.0})
    clock[0] += 3.0
    batch(records, clock, 2)
    _, step, metrics = rows[2]
    assert step == 1
    assert metrics == {
        "tokens/generated": 10.0, "reward/mean": pytest.approx(0.35), "trl/loss": 2.0, "time/generate_s": 4.0,
        "time/verify_s": 2.0, "time/estimate_s": 1.0, "time/learn_s": 3.0, "time/step_s": 10.0, "time/record_s": 0.5,
    }  # fmt: skip
    records.end("finished")
    assert [row[0] for row in rows[3:]] == ["groups", "step", "end"]
    assert "trl/loss" not in rows[4][2]


def test_a_checkpoint_has_the_step_that_trains_and_its_end_is_written_again(clocked):
    records, rows, clock = clocked
    batch(records, clock, 1)
    records.save()
    records.log({"loss": 3.0})
    clock[0] += 3.0
    records.end("stopped")
    steps = [row for row in rows if row[0] == "step"]
    assert [row[0] for row in rows] == ["begin", "groups", "step", "sync", "step", "end"]
    assert [step for _, step, _ in steps] == [1, 1]
    assert [metrics.get("trl/loss") for _, _, metrics in steps] == [None, 3.0]
    assert [metrics["time/record_s"] for _, _, metrics in steps] == [0.5, 1.0]


def test_a_later_training_begins_again(clocked):
    records, rows, clock = clocked
    batch(records, clock, 1)
    records.end("failed", "no reward")
    batch(records, clock, 2)
    assert [row for row in rows if row[0] == "begin"] == [("begin", 0), ("begin", 1)]
