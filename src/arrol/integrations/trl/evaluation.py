"""What TRL's evaluation says of a policy: rewards of unpruned rollouts as a row of the learning curve.

TRL asks for the rollouts batch by batch; the rewards of a batch are known once its reward functions were called.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from arrol.integrations.trl.batch import RewardColumns, RolloutBatch, RowTag
from arrol.integrations.trl.host import TrainerLike
from arrol.records.schema import EvalRecord
from arrol.stats import accuracy_with_interval
from arrol.types import RolloutGroup


class EvaluatedRollout(NamedTuple):
    """One rollout of an evaluation."""

    prompt: str
    """Key of its prompt."""
    total: float
    """Sum of the reward functions; NaN without one."""
    success: float
    """1 right, 0 wrong or without a reward."""
    tokens: int


class JudgedRollouts:
    """The rollouts of this rank since the last evaluation; completions of one batch at a time."""

    def __init__(self, success: str | None, threshold: float) -> None:
        """``success``: reward function that says what is right, above ``threshold``."""
        self._success, self._threshold = success, threshold
        self._batch: RolloutBatch | None = None
        self._judged: list[EvaluatedRollout] = []

    def tags(self, groups: list[RolloutGroup], trainer: TrainerLike) -> list[RowTag]:
        """Tags of the rows of a batch, for the wrapped reward functions."""
        self._close(trainer)
        self._batch = RolloutBatch(groups, is_evaluation=True)
        return [RowTag(self._batch, survived=True)] * len(self._batch.rows)

    def take(self, trainer: TrainerLike) -> list[EvaluatedRollout]:
        """The rollouts since the last call; none whose reward functions were not called."""
        self._close(trainer)
        taken, self._judged = self._judged, []
        return taken

    def _close(self, trainer: TrainerLike) -> None:
        batch, self._batch = self._batch, None
        columns = reward_columns(trainer)
        if batch is None or any(function not in batch.rewards for function in columns.functions):
            return
        for each in batch.rewarded(columns, self._success, self._threshold):
            for rollout, total in zip(each.group.rollouts, each.total_G.tolist(), strict=True):
                success = rollout.reward or 0.0
                self._judged.append(
                    EvaluatedRollout(each.group.prompt.key, total, success, rollout.completion.num_tokens)
                )


def reward_columns(trainer: TrainerLike) -> RewardColumns:
    """TRL's reward functions."""
    return RewardColumns(trainer.reward_func_names, trainer.reward_funcs, trainer.reward_weights.tolist())


def eval_row(judged: Sequence[EvaluatedRollout], step: int) -> EvalRecord:
    """Accuracy with its interval over prompts."""
    by_prompt: dict[str, list[float]] = {}
    for one in judged:
        by_prompt.setdefault(one.prompt, []).append(one.success)
    rows = list(by_prompt.values())
    samples = min(map(len, rows))
    is_whole = all(len(row) == samples for row in rows)
    if not is_whole:  # TRL repeats prompts to fill its last batch
        rows = [[float(np.mean(row))] for row in rows]
    accuracy, low, high = accuracy_with_interval(np.array(rows))
    totals = [one.total for one in judged if not math.isnan(one.total)]
    return EvalRecord(
        step=step, accuracy=accuracy, low=low, high=high, num_prompts=len(rows), samples_per_prompt=samples,
        metrics={
            "eval/reward/mean": float(np.mean(totals)) if totals else math.nan,
            "eval/completion_tokens/mean": float(np.mean([one.tokens for one in judged])),
        },
    )  # fmt: skip
