"""One batch of rollouts on one rank, from sampling to what it teaches. Numpy only.

TRL shuffles rows after they were scored, so nothing but its tokens says which rollout a row is. Rows of equal tokens
are interchangeable in the loss, hence :func:`row_key` is all the loss needs to find a row's advantage.
Legend: ``G`` rollouts of a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from arrol.errors import ConfigError
from arrol.types import FinishReason, Rollout, RolloutGroup

RowKey = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass
class VerifiedGroup:
    """A group whose finished rollouts have been rewarded."""

    group: RolloutGroup
    """Rewards of its rollouts are labels: 1 success, 0 failure, None unknown."""
    total_G: np.ndarray
    """float64 ``[G]``: weighted sum of the reward functions, as the trainer sees it; NaN where there is none."""

    @property
    def is_pruned(self) -> bool:
        return any(rollout.survival < 1.0 for rollout in self.group.rollouts)

    @property
    def counted_G(self) -> np.ndarray:
        """bool ``[G]``: rollouts that took part in the lottery or have a reward. Failed ones, and finished ones without
        any reward, leave the group as they do in TRL."""
        stopped = [r.completion.finish_reason is FinishReason.PRUNED for r in self.group.rollouts]
        return np.array(stopped, bool) | ~np.isnan(self.total_G)


@dataclass
class PrunedBatch:
    """What one call of the rollout function wrote."""

    groups: list[RolloutGroup]
    rewards: dict[str, list[float | None]] = field(default_factory=dict)
    """Name of a reward function -> one value per row, None where it gave none."""
    group_size: int = 0
    """Rows that TRL expects of a group; 0: as many as there are rollouts."""

    @property
    def rollouts(self) -> list[Rollout]:
        """In the order of their rows."""
        return [row for row in self.rows if row is not None]

    @property
    def rows(self) -> list[Rollout | None]:
        """In the order in which TRL knows them; None where a rollout was never asked for."""
        return [
            row for group in self.groups for row in (*group.rollouts, *[None] * (self.group_size - len(group.rollouts)))
        ]

    def verified(self, weights: Mapping[str, float], success: str | None, threshold: float) -> list[VerifiedGroup]:
        """Groups with totals and labels; ``success`` names the function that says what is right (None: the only one).

        ConfigError when rewards never came, or when it is unclear which of them means success.
        """
        name = success_name(list(weights), success)
        for missing in weights.keys() - self.rewards.keys():
            raise ConfigError(
                f"reward_funcs = {missing!r}: it was never told which rollouts survived; wrap it in prune_rewards"
            )
        asked = [place for place, row in enumerate(self.rows) if row is not None]
        values = {
            key: np.array([np.nan if v is None else v for v in self.rewards[key]], float)[asked] for key in weights
        }
        known = np.stack([values[key] for key in weights])
        scaled = known * np.array([weights[key] for key in weights])[:, None]
        total = np.where(np.isnan(known).all(0), np.nan, np.nansum(scaled, axis=0))
        for rollout, value in zip(self.rollouts, values[name], strict=True):
            rollout.reward = None if np.isnan(value) else float(value > threshold)
        ends = np.cumsum([len(group.rollouts) for group in self.groups])[:-1]
        return [VerifiedGroup(group, part) for group, part in zip(self.groups, np.split(total, ends), strict=True)]


@dataclass(frozen=True)
class Ticket:
    """Travels with a row to the reward functions."""

    batch: PrunedBatch
    row: int
    survived: bool

    def __repr__(self) -> str:
        return "<survivor>" if self.survived else "<pruned>"


def success_name(names: Sequence[str], success: str | None) -> str:
    """The reward function whose value says whether an answer is right."""
    if success is None and len(names) == 1:
        return names[0]
    if success is None or success not in names:
        raise ConfigError(
            f"success_reward = {success!r}: name the one of {sorted(names)} that says whether an answer is right"
        )
    return success


def row_key(prompt_ids: Sequence[int], completion_ids: Sequence[int], pad: int | None) -> RowKey:
    """Identity of a row by its tokens, padding at the completion's end apart."""
    end = len(completion_ids)
    while end and completion_ids[end - 1] == pad:
        end -= 1
    return tuple(prompt_ids), tuple(completion_ids[:end])
