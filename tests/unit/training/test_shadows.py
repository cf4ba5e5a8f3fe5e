"""Stopped rollouts that are finished aside: which, how, and what is counted."""

import math

import numpy as np
import pytest
from integrations.groups import group_of

from arrol.training.shadows import SHADOW_SEED, Finisher, finish_stopped, shadow_metrics
from arrol.types import Completion, FinishReason, SamplingParams, Verdict


class Engine:
    """Goes on with two tokens; remembers what it was asked."""

    def __init__(self, reason=FinishReason.STOP):
        self.calls, self._reason = [], reason

    def generate(self, requests, params, *, seed):
        self.calls.append((requests, params, seed))
        return [[Completion((7, 7), np.zeros(2, np.float32), self._reason)] for _ in requests]


class Task:
    def submit(self, prompt, text, token_ids):
        return lambda: Verdict(float(len(token_ids) == 4), text)


class Tokenizer:
    def decode(self, token_ids, *, skip_special_tokens):
        assert skip_special_tokens
        return "".join(map(str, token_ids))


def groups(step=1):
    """Two groups; rollouts 1 and 2 of each were stopped, at lengths 2 and 3."""
    return [
        group_of([1, 0, 0], [1.0, 0.5, 0.5], [1.0] * 3, lengths=[5, 2, 3], quality=0.25, step=step, number=number)
        for number in range(2)
    ]


def finished(share=1.0, engine=None, seed=3, step=1):
    engine = engine or Engine()
    params = SamplingParams(8, stop_token_ids=(9,))
    return finish_stopped(groups(step), share, Finisher(engine, Task(), Tokenizer(), params, seed)), engine


def test_stopped_rollouts_go_on_behind_their_own_tokens():
    shadows, engine = finished()
    assert [tuple(shadow.rollout_id) for shadow in shadows] == [(1, 0, 1), (1, 0, 2), (1, 1, 1), (1, 1, 2)]
    (first, params, seed), (second, other, _) = engine.calls
    assert [request.prompt.token_ids for request in first] == [(1, 2, 0, 1)] * 2
    assert [request.rollout_ids for request in second] == [[(1, 0, 2)], [(1, 1, 2)]]
    assert (params.max_completion_tokens, other.max_completion_tokens, params.stop_token_ids) == (6, 5, (9,))
    assert seed == 3 + SHADOW_SEED
    assert [shadow.verdict.answer for shadow in shadows[:2]] == ["0177", "01277"]  # the whole text is judged


def test_a_record_says_how_it_would_have_ended():
    record = finished()[0][1].record(segment=2)
    assert (record.step, record.segment, record.group, record.index) == (1, 2, 0, 2)
    assert (record.completion_tokens, record.finish_reason, record.reward, record.quality) == (5, "stop", 0.0, 0.25)


def test_one_that_failed_has_no_reward():
    (shadow, *_), _ = finished(engine=Engine(FinishReason.ERROR))
    assert math.isnan(shadow.verdict.reward)
    assert shadow.record(0).reward is None


def test_nothing_is_done_to_the_rollouts():
    before = groups()
    finish_stopped(before, 1.0, Finisher(Engine(), Task(), Tokenizer(), SamplingParams(8), 0))
    for group, untouched in zip(before, groups(), strict=True):
        for rollout, same in zip(group.rollouts, untouched.rollouts, strict=True):
            assert rollout.completion.token_ids == same.completion.token_ids
            assert (rollout.reward, rollout.decision) == (same.reward, same.decision)


def test_the_share_is_met_by_a_draw_that_depends_on_the_rollout_alone():
    drawn = [{tuple(s.rollout_id) for s in finished(0.25, step=step)[0]} for step in range(1, 401)]
    assert sum(map(len, drawn)) / 1600 == pytest.approx(0.25, abs=0.04)
    more = [{tuple(s.rollout_id) for s in finished(0.5, step=step)[0]} for step in range(1, 11)]
    assert all(few <= many for few, many in zip(drawn, more, strict=False))
    shadows, engine = finished(0.0)
    assert shadows == engine.calls == []


def test_counts():
    assert shadow_metrics(finished()[0]) == {"shadow/rollouts": 4.0, "shadow/tokens": 8.0, "shadow/right_frac": 0.5}
    assert shadow_metrics([]) == {}
