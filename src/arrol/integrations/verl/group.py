"""The rollouts of one prompt as the service knows them while a step is open. Numpy only.

Legend: ``G`` rollouts of the group.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from arrol.pruning.controller import PruningController
from arrol.types import Completion, FinishReason, Prompt, Rollout, RolloutGroup, RolloutId


@dataclass
class OpenGroup:
    """By index of the rollout."""

    key: str
    size: int
    features_at: defaultdict[int, dict[int, np.ndarray]] = field(default_factory=lambda: defaultdict(dict))
    waiting: dict[int, tuple[int, asyncio.Future[bool]]] = field(default_factory=dict)
    """Probe, and the answer that the worker awaits."""
    completions: dict[int, Completion] = field(default_factory=dict)
    """Completions of rollouts that have ended; token ids are unknown here, their number counts."""
    rewards: dict[int, float] = field(default_factory=dict)
    ends: dict[int, FinishReason] = field(default_factory=dict)
    """How complete rollouts ended, those without a usable reward too, which count as failed for all that learns."""

    @property
    def missing(self) -> list[int]:
        """Rollouts that have not ended, or whose reward is under way."""
        return [index for index in range(self.size) if index not in self.completions]

    @property
    def total_G(self) -> np.ndarray:
        """float64 ``[G]``: rewards that train; NaN where there is none."""
        return np.array([self.rewards.get(index, np.nan) for index in range(self.size)])

    def as_rollouts(self, step: int, number: int, controller: PruningController, threshold: float) -> RolloutGroup:
        """The ended rollouts with their decisions; a reward is 1 above ``threshold``, else 0."""
        rollouts = []
        for index, completion in sorted(self.completions.items()):
            rollout_id, reward = RolloutId(step, number, index), self.rewards.get(index)
            label = None if reward is None else float(reward > threshold)
            rollouts.append(Rollout(rollout_id, completion, controller.decision(rollout_id), label))
        return RolloutGroup(Prompt(key=self.key, token_ids=(0,), text="", answer=""), rollouts)
