"""One batch of rollouts on one rank, and its rewards. Numpy only.

TRL shuffles rows after they were rewarded, so a row is identified by its tokens (:func:`row_key`). Rows of equal tokens
are interchangeable in the loss. Legend: ``G`` rollouts of a group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from arrol.errors import ConfigError
from arrol.integrations.records import gold_answer, shown_answer
from arrol.types import FinishReason, Prompt, Rollout, RolloutGroup

RowKey = tuple[tuple[int, ...], tuple[int, ...]]
RewardFunction = Callable[..., Any]
"""TRL's: columns as keywords in, a list of floats and None or an awaitable of it out."""

ANSWER_COLUMNS = ("extracted_answer", "answer", "prediction")
"""Columns of TRL's ``log_extra`` that hold what a reward function took for the answer."""


@dataclass
class RewardedGroup:
    """A group with its rewards."""

    group: RolloutGroup
    """The reward of a rollout is its label: 1 success, 0 failure, None unknown."""
    total_G: np.ndarray
    """float64 ``[G]``: weighted sum of the reward functions, as TRL trains on it; NaN without a reward."""
    success_G: np.ndarray
    """float64 ``[G]``: value of the reward function that says what is right; NaN without one."""

    @property
    def is_pruned(self) -> bool:
        """Some rollout could have been stopped."""
        return any(rollout.survival < 1.0 for rollout in self.group.rollouts)

    @property
    def counted_G(self) -> np.ndarray:
        """bool ``[G]``: stopped or rewarded. Other rollouts leave the group's statistics, as in TRL."""
        stopped = [r.completion.finish_reason is FinishReason.PRUNED for r in self.group.rollouts]
        return np.array(stopped, bool) | ~np.isnan(self.total_G)


class RewardColumns(NamedTuple):
    """TRL's reward functions, in its order."""

    names: Sequence[str]
    functions: Sequence[RewardFunction]
    """Wrapped."""
    weights: Sequence[float]


@dataclass
class RolloutBatch:
    """The rollouts of one call of the rollout function, and the rewards that come back for its rows."""

    groups: list[RolloutGroup]
    rewards: dict[RewardFunction, list[float | None]] = field(default_factory=dict)
    """A wrapped reward function -> one value per row, None where it gave none; two functions may share a name."""
    group_size: int = 0
    """Rows of a group in TRL; 0 for as many as it has rollouts."""
    is_evaluation: bool = False
    """Nothing was stopped, and nothing is learned from it."""
    golds: Sequence[str] = ()
    """Per row, the gold answer of the data; for the record alone, as the next one."""
    answers: Sequence[str | None] = ()
    """Per row, the answer that a reward function logged; None without one."""

    @property
    def rollouts(self) -> list[Rollout]:
        """In the order of their rows."""
        return [row for row in self.rows if row is not None]

    @property
    def rows(self) -> list[Rollout | None]:
        """In TRL's order; None for a row whose rollout was never requested."""
        return [
            row for group in self.groups for row in (*group.rollouts, *[None] * (self.group_size - len(group.rollouts)))
        ]

    def note_columns(self, columns: Mapping[str, Any]) -> None:
        """Keep the gold answers among the columns of a reward function, each with one value per row."""
        if not self.golds:
            count = len(self.rows)
            known = {name: value for name, value in columns.items() if isinstance(value, list) and len(value) == count}
            self.golds = [gold_answer({name: value[row] for name, value in known.items()}) for row in range(count)]

    def note_logged(self, column: str, rows: Sequence[Any]) -> None:
        """Keep the answers that a reward function logs under one of the usual names."""
        if column in ANSWER_COLUMNS:
            self.answers = [None if value is None else shown_answer(value) for value in rows]

    def rewarded(self, rewards: RewardColumns, success: str | None, threshold: float) -> list[RewardedGroup]:
        """The groups with labels and totals; a value of function ``success`` above ``threshold`` means right.

        ConfigError for a reward function that was not wrapped, or when ``success`` is unclear.
        """
        place = success_place(rewards.names, success)
        for name, function in zip(rewards.names, rewards.functions, strict=True):
            if function not in self.rewards:
                raise ConfigError(
                    f"reward_funcs = {name!r}: called with stopped rollouts too; wrap it in prune_rewards"
                )
        requested = [row for row, rollout in enumerate(self.rows) if rollout is not None]
        known = np.array([self.rewards[function] for function in rewards.functions], float)[:, requested]
        scaled = known * np.array(rewards.weights)[:, None]  # None became NaN
        total = np.where(np.isnan(known).all(0), np.nan, np.nansum(scaled, axis=0))
        for rollout, value in zip(self.rollouts, known[place], strict=True):
            rollout.reward = None if np.isnan(value) else float(value > threshold)
        self._tell_answers(requested)
        ends = np.cumsum([len(group.rollouts) for group in self.groups])[:-1]
        parts = zip(self.groups, np.split(total, ends), np.split(known[place], ends), strict=True)
        return [RewardedGroup(group, total_G, success_G) for group, total_G, success_G in parts]

    def _tell_answers(self, requested: Sequence[int]) -> None:
        """Put what was noted beside the rollouts and their prompts; ``requested`` are the rows that have a rollout."""
        for row, rollout in zip(requested, self.rollouts, strict=True):
            rollout.answer = self.answers[row] if self.answers else None
        first = 0
        for group in self.groups:
            if self.golds:
                group.prompt = replace(group.prompt, answer=self.golds[first])
            first += self.group_size or len(group.rollouts)


@dataclass(frozen=True)
class RowTag:
    """Value of the extra column that tells a wrapped reward function which rows survived."""

    batch: RolloutBatch
    survived: bool

    def __repr__(self) -> str:
        return "<survivor>" if self.survived else "<pruned>"


def named_prompt(token_ids: Sequence[int], text: str = "") -> Prompt:
    """A prompt whose key is its tokens."""
    key = hashlib.blake2b(np.asarray(token_ids, np.int64).tobytes(), digest_size=8).hexdigest()
    return Prompt(key, tuple(token_ids), text, "")


def success_place(names: Sequence[str], success: str | None) -> int:
    """Position of the reward function whose value says whether an answer is right."""
    if success is None and len(names) == 1:
        return 0
    if success is None or success not in names:
        raise ConfigError(
            f"success_reward = {success!r}: name the one of {sorted(set(names))} that says whether an answer is right"
        )
    if names.count(success) > 1:
        raise ConfigError(
            f"success_reward = {success!r}: {names.count(success)} reward functions have this name; define the one "
            "that says whether an answer is right under a name of its own"
        )
    return names.index(success)


def row_key(prompt_ids: Sequence[int], completion_ids: Sequence[int], pad: int | None) -> RowKey:
    """Identity of a row by its tokens, without padding at the completion's end."""
    end = len(completion_ids)
    while end and completion_ids[end - 1] == pad:
        end -= 1
    return tuple(prompt_ids), tuple(completion_ids[:end])
