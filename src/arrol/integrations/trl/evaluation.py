"""What TRL's evaluation says of a policy: rewards of unpruned rollouts as a row of the learning curve.

TRL asks for the rollouts batch by batch; the rewards of a batch are known once its reward functions were called.
"""

from __future__ import annotations

from arrol.integrations.evaluation import EvaluatedRollout
from arrol.integrations.trl.batch import RewardColumns, RolloutBatch, RowTag
from arrol.integrations.trl.host import TrainerLike
from arrol.types import RolloutGroup


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
