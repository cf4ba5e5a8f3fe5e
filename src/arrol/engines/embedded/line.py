"""Rollouts that wait for a row, in the order in which they were asked for; siblings follow each other.

A prompt is prefilled when its first rollout gets a row, together with as many of those behind it as one pass may hold,
and its keys and values are forgotten when its last rollout has one. A later wave of the same group is a prompt like any
other: whether one will come is not known, and memory is dearer than a second prefill. Legend: ``P`` prompts, ``V``
vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from arrol.engines.embedded.cache import PromptCache
from arrol.types import GroupRequest, RolloutId

Prefill = Callable[[Sequence[Sequence[int]]], tuple[PromptCache, torch.Tensor]]
"""Prompts -> keys and values, and logits ``[P, V]`` behind the last token of each."""


class Prefilled(NamedTuple):
    prompts: PromptCache
    place: int
    """Of the prompt among them."""
    logits_V: torch.Tensor


@dataclass
class _Waiting:
    """A request of which somebody waits."""

    prompt: tuple[int, ...]
    rollout_ids: deque[RolloutId]
    prefilled: Prefilled | None = None


class Line:
    """See the module."""

    def __init__(self, prefill: Prefill, most_tokens: int) -> None:
        """``most_tokens``: of one pass of prefill, padding included."""
        self._prefill, self._most_tokens = prefill, most_tokens
        self._waiting: deque[_Waiting] = deque()

    def __len__(self) -> int:
        """Rollouts that wait."""
        return sum(len(waiting.rollout_ids) for waiting in self._waiting)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, requests: Sequence[GroupRequest]) -> None:
        """To the end of the line; a request of nobody is not prefilled."""
        self._waiting += [
            _Waiting(request.prompt.token_ids, deque(request.rollout_ids)) for request in requests if request.size
        ]

    def take(self, most: int) -> tuple[list[RolloutId], int, Prefilled]:
        """The first prompt's next rollouts, at most so many; the prompt's length; what was prefilled."""
        first = self._waiting[0]
        prefilled = first.prefilled or self._prefill_first()
        rollout_ids = [first.rollout_ids.popleft() for _ in range(min(most, len(first.rollout_ids)))]
        if not first.rollout_ids:
            self._waiting.popleft()
        return rollout_ids, len(first.prompt), prefilled

    def _prefill_first(self) -> Prefilled:
        """The first prompt and those behind it, none of which has been prefilled."""
        chunk: list[_Waiting] = []
        longest = 0
        for waiting in self._waiting:
            longest = max(longest, len(waiting.prompt))
            if chunk and longest * (len(chunk) + 1) > self._most_tokens:
                break
            chunk.append(waiting)
        prompts, logits_PV = self._prefill([waiting.prompt for waiting in chunk])
        for place, waiting in enumerate(chunk):
            waiting.prefilled = Prefilled(prompts, place, logits_PV[place])
        assert chunk[0].prefilled is not None
        return chunk[0].prefilled
