"""Verdicts during generation: ended rollouts in, verified rollouts out in the same order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from arrol.algorithms.allocation.allocator import Allocator
from arrol.protocols import Controller, PendingVerdict
from arrol.types import Completion, GroupRequest, Rollout, RolloutId
from arrol.verifiers.tally import RewardTally

Submit = Callable[[RolloutId, Completion], PendingVerdict]
"""Starts the verdict of a rollout that survived; a reward of NaN means that it has none."""


class VerdictQueue:
    """Rollouts of one step between their end and the allocator.

    The allocator observes them when their outcomes may lead to a request (:meth:`Allocator.is_due`) and at the end of
    the step. Both depend on tokens only, so the time a verdict takes changes no request.
    """

    def __init__(self, submit: Submit, controller: Controller, allocator: Allocator) -> None:
        self._submit, self._controller, self._allocator = submit, controller, allocator
        self._waiting: list[tuple[RolloutId, Completion, PendingVerdict | None]] = []
        self.tally = RewardTally()

    def add(self, ended: Sequence[tuple[RolloutId, Completion]]) -> None:
        """Start their verdicts; a stopped or failed rollout has no answer to verify."""
        for rollout_id, completion in ended:
            pending = self._submit(rollout_id, completion) if completion.finish_reason.survived else None
            self._waiting.append((rollout_id, completion, pending))

    def requests(self) -> list[GroupRequest]:
        """What the allocator asks for in view of them; nothing, without waiting, while it can ask for nothing."""
        is_due = self._allocator.is_due([rollout_id for rollout_id, *_ in self._waiting])
        return self.observe() if is_due else []

    def observe(self) -> list[GroupRequest]:
        """Wait for all verdicts; what the allocator asks for."""
        if not self._waiting:
            return []
        waiting, self._waiting = self._waiting, []
        rollouts = []
        for rollout_id, completion, pending in waiting:
            rollout = Rollout(rollout_id, completion, self._controller.decision(rollout_id))
            if pending is not None:
                verdict = pending()
                rollout.reward = None if math.isnan(verdict.reward) else verdict.reward
                rollout.answer, rollout.success = verdict.answer, verdict.success
                self.tally.add(verdict)
            rollouts.append(rollout)
        return self._allocator.observe(rollouts)
