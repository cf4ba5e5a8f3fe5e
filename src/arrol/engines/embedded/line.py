"""The queue of rollouts that wait for a row, in the order of their requests.

A prompt is prefilled when its first rollout gets a row, together with the next prompts that fit in the same pass; its
keys and values are dropped when its last rollout has a row. A later wave prefills its prompt again. Legend: ``P``
prompts, ``V`` vocabulary.
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
    """Place of the prompt among them."""
    logits_V: torch.Tensor


@dataclass
class _Waiting:
    """A prompt and its rollouts that wait."""

    prompt: tuple[int, ...]
    rollout_ids: deque[RolloutId]
    prefilled: Prefilled | None = None


class Line:
    """``prefill`` takes at most ``most_tokens`` in one pass, padding included, and at least one prompt."""

    def __init__(self, prefill: Prefill, most_tokens: int) -> None:
        self._prefill, self._most_tokens = prefill, most_tokens
        self._waiting: deque[_Waiting] = deque()

    def __len__(self) -> int:
        """Rollouts that wait."""
        return sum(len(waiting.rollout_ids) for waiting in self._waiting)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, requests: Sequence[GroupRequest]) -> None:
        """To the end of the line; an empty request is not prefilled."""
        self._waiting += [
            _Waiting(request.prompt.token_ids, deque(request.rollout_ids)) for request in requests if request.size
        ]

    def add_first(self, tokens: tuple[int, ...], rollout_ids: Sequence[RolloutId]) -> None:
        """Rollouts that come back; of one that resumes, its tokens so far take the place of the prompt."""
        self._waiting.appendleft(_Waiting(tokens, deque(rollout_ids)))

    def prefill(self) -> int:
        """Prefill the first prompt unless it is prefilled; returns its length."""
        if self._waiting[0].prefilled is None:
            chunk = self._chunk()
            prompts, logits_PV = self._prefill([waiting.prompt for waiting in chunk])
            for place, waiting in enumerate(chunk):
                waiting.prefilled = Prefilled(prompts, place, logits_PV[place])
        return len(self._waiting[0].prompt)

    def shrink(self) -> bool:
        """Halve the next pass, since memory ran out; False when it is one prompt."""
        chunk = self._chunk()
        self._most_tokens = len(chunk) * max(len(waiting.prompt) for waiting in chunk) // 2
        return len(chunk) > 1

    def forget(self) -> None:
        """Drop all keys and values."""
        for waiting in self._waiting:
            waiting.prefilled = None

    def take(self, most: int) -> tuple[list[RolloutId], tuple[int, ...], Prefilled]:
        """The next rollouts of the first prompt, at most so many; the prompt; what was prefilled."""
        self.prefill()
        prefilled = self._waiting[0].prefilled
        assert prefilled is not None
        return *self.take_waiting(most), prefilled

    def take_waiting(self, most: int) -> tuple[list[RolloutId], tuple[int, ...]]:
        """The next rollouts of the first prompt, at most so many, and the prompt; nothing is prefilled."""
        first = self._waiting[0]
        rollout_ids = [first.rollout_ids.popleft() for _ in range(min(most, len(first.rollout_ids)))]
        if not first.rollout_ids:
            self._waiting.popleft()
        return rollout_ids, first.prompt

    def _chunk(self) -> list[_Waiting]:
        """The first prompts of the line, none of them prefilled, that fit in one pass."""
        chunk: list[_Waiting] = []
        longest = 0
        for waiting in self._waiting:
            longest = max(longest, len(waiting.prompt))
            if chunk and longest * (len(chunk) + 1) > self._most_tokens:
                break
            chunk.append(waiting)
        return chunk
