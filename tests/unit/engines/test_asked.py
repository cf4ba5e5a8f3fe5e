"""Ended rollouts are told once; new requests are opened, and their completions follow the others."""

import numpy as np
import pytest

from arrol.engines.asked import Asked
from arrol.errors import DataError
from arrol.types import Completion, FinishReason, GroupRequest, Prompt, RolloutId

PROMPT = Prompt("a", (5,), "", "")


class Opened:
    def __init__(self):
        self.waves = []

    def open(self, step, group, size, success_rate=None, *, prune=True):
        self.waves.append((step, group, size, success_rate, prune))


def completion(token):
    return Completion((token,), np.zeros(1, np.float32), FinishReason.STOP)


def ended(asked, *rollout_ids):
    for rollout_id in rollout_ids:
        asked.end(rollout_id, completion(rollout_id.index))


def test_every_request_is_opened_as_it_comes_and_completions_follow_their_order():
    told, opened = [], Opened()

    def more(news):
        told.append([rollout_id.index for rollout_id, _ in news])
        return [GroupRequest(1, 0, PROMPT, 1, 0.25, first=2, prune=False)] if len(told) == 1 else []

    asked = Asked([GroupRequest(1, 0, PROMPT, 2, 0.5)], controller=opened, more=more)
    assert asked.ask() == []
    ended(asked, RolloutId(1, 0, 1), RolloutId(1, 0, 0))
    assert [request.first for request in asked.ask()] == [2]
    assert asked.ask() == []
    ended(asked, RolloutId(1, 0, 2))
    assert asked.ask() == []
    assert told == [[0, 1], [2]]
    assert opened.waves == [(1, 0, 2, 0.5, True), (1, 0, 1, 0.25, False)]
    assert [[c.token_ids for c in group] for group in asked.completions()] == [[(0,), (1,)], [(2,)]]


def test_without_more_nothing_is_kept_to_be_told():
    asked = Asked([GroupRequest(1, 0, PROMPT, 1)])
    ended(asked, RolloutId(1, 0, 0))
    assert asked.ask() == []
    assert asked._news == []


def test_no_rollout_is_asked_for_twice():
    """A later wave that forgets where it begins would write its elders' tokens again."""
    asked = Asked([GroupRequest(1, 3, PROMPT, 2)], more=lambda news: [GroupRequest(1, 3, PROMPT, 2)])
    ended(asked, RolloutId(1, 3, 0))
    with pytest.raises(DataError, match=r"first = 0: rollout 0 of group 3 was requested before"):
        asked.ask()


def test_a_request_of_size_0_has_no_completions():
    assert Asked([GroupRequest(1, 0, PROMPT, 0)]).completions() == [[]]
    assert Asked([]).completions() == []
