"""A group on disk: rows of numbers, and completions token by token with what was decided about them."""

import numpy as np
from integrations.groups import ByteTexts, group_of

from arrol.algorithms.advantages import GroupSignal
from arrol.algorithms.allocation.selection import Selection
from arrol.algorithms.lesson import Lesson
from arrol.records.groups import RecordedGroup, decisions_of, group_texts, rollout_records
from arrol.records.pieces import Pieces
from arrol.types import PruningDecision, Reason, Rollout


def decision(rollout_id, probe, previous=None):
    return PruningDecision(rollout_id, probe, True, 0.5, Reason.DRAW, -0.25, 0.123456789, 0, previous)


def texts_of(group, lesson=None):
    count = len(group.rollouts)
    signal = GroupSignal(np.linspace(0, 1, count), np.full(count, 2.0), 0.5, 0.5)
    lesson = lesson or Lesson(Selection(np.ones(count, bool), np.ones(count)))
    recorded = RecordedGroup(group, signal.advantage_G, signal.weight_G, lesson.left_out_G)
    return group_texts(recorded, Pieces(ByteTexts()), [16, 32])


def test_a_rollout_says_what_became_of_it():
    group = group_of([1, 0, 1], [0.5, 0.25, 1.0], [1.0, 0.0, None], lengths=[3, 2, 4], quality=0.7)
    first = group.rollouts[0]
    first.completion.sampler_logprobs_T = np.array([-0.001, -0.126, np.nan])
    first.decision = decision(first.rollout_id, 1, decision(first.rollout_id, 0))
    row = texts_of(group)["rollouts"][0]
    assert row["logprobs"] == [0.0, -0.13, None]
    assert str(row["logprobs"][0]) == "0.0"
    assert (row["advantage"], row["weight"], row["lesson"]) == (0.0, 2.0, "")
    known = {"score": -0.25, "quality": 0.12346, "survival": 0.5, "keep": True, "reason": "draw"}
    assert row["probes"] == [{"at": 16, **known}, {"at": 32, **known}]


def test_tokens_are_kept_once():
    group = group_of([1, 1], [1.0, 1.0], [1.0, 0.0], lengths=[3, 3])
    texts = texts_of(group)
    assert len(set(texts["tokens"])) == len(texts["tokens"])
    for row, rollout in zip(texts["rollouts"], group.rollouts, strict=True):
        assert "".join(texts["tokens"][i] for i in row["tokens"]) == bytes(rollout.completion.token_ids).decode()


def test_a_lesson_says_why_a_rollout_does_not_train():
    group = group_of([1, 1], [1.0, 1.0], [1.0, 0.0])
    lesson = Lesson(Selection(np.array([True, False]), np.ones(2), reason="pods"))
    assert [row["lesson"] for row in texts_of(group, lesson)["rollouts"]] == ["", "pods"]


def test_without_a_decision_there_are_no_probes():
    group = group_of([1], [1.0], [1.0])
    assert decisions_of(Rollout(group.rollouts[0].rollout_id, group.rollouts[0].completion)) == []


def test_a_row_says_who_trains_and_who_was_left_out():
    group = group_of([1, 0, 1], [0.5, 0.25, 1.0], [1.0, 0.0, 0.0], lengths=[3, 2, 4], quality=0.7, step=5, number=2)
    group.rollouts[0].success = 0.0
    rows = rollout_records(group, ["", "pods", "pods"], 3)
    assert [(row.step, row.segment, row.group, row.index) for row in rows] == [(5, 3, 2, 0), (5, 3, 2, 1), (5, 3, 2, 2)]
    assert [(row.keep, row.dropped) for row in rows] == [(True, ""), (False, ""), (False, "pods")]
    assert [(row.reward, row.success, row.finish_reason) for row in rows] == [
        (1.0, 0.0, "stop"), (None, None, "pruned"), (0.0, None, "stop"),
    ]  # fmt: skip
    assert [(row.reason, row.survival, row.completion_tokens) for row in rows] == [
        ("draw", 0.5, 3), ("draw", 0.25, 2), ("", 1.0, 4),
    ]  # fmt: skip
