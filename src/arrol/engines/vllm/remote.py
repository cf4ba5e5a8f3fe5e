"""The controller as the trainer sees it when decisions are made in another process. Numpy only, no vLLM.

The scheduler of vLLM builds the controller that decides (``groups.py``). What the trainer holds is this: it writes the
arguments that go out with a request and keeps the decisions that come back in its ``stop_reason``. Rollouts that may
not be stopped go out under the rule ``never``, which judges them all the same; of a group that is asked for in waves,
the scheduler draws each wave as a group of its own, so that the floor of survivors holds for each. The population
behind draws without siblings lives with the scheduler and starts empty after a restart; everything else of the method
is saved where it is in other hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from arrol.configs.method import NeverRule, NeymanRule, OracleRule, PruningBase
from arrol.engines.vllm.request import pruning_args
from arrol.protocols import TrainingController
from arrol.types import GroupRequest, ProbeEvent, PruningDecision, Reason, RolloutId, State


class RemoteController(TrainingController):
    """A controller whose decisions fall in the scheduler: events from this side change nothing."""

    def __init__(self, config: PruningBase, *, seed: int) -> None:
        self._config, self._seed = config, seed
        self._decisions: dict[RolloutId, PruningDecision] = {}
        self._sizes: dict[tuple[int, int], int] = {}
        """Rollouts asked for so far, by group of the newest steps."""
        self._spared: set[RolloutId] = set()
        """Rollouts of the newest steps that may not be stopped."""

    @property
    def probe_tokens(self) -> tuple[int, ...]:
        idle = isinstance(self._config, NeverRule) and not self._config.observe
        return () if idle else self._config.probe_tokens

    def open(self, step: int, group: int, size: int, success_rate: float | None = None, *, prune: bool = True) -> None:
        """A group, or a later wave of one, goes out; groups of other steps are forgotten."""
        if all(known != step for known, _ in self._sizes):
            self._decisions, self._sizes, self._spared = {}, {}, set()
        first = self._sizes.get((step, group), 0)
        self._sizes[step, group] = first + size
        if not prune:
            self._spared.update(RolloutId(step, group, index) for index in range(first, first + size))

    def probed(self, events: Sequence[ProbeEvent]) -> list[RolloutId]:
        return []

    def finished(self, rollout_ids: Sequence[RolloutId]) -> list[RolloutId]:
        return []

    def lost(self, rollout_ids: Sequence[RolloutId]) -> list[RolloutId]:
        return []

    def tick(self, now: float) -> list[RolloutId]:
        return []

    def decided(self, decision: PruningDecision) -> None:
        """A report has come back."""
        if decision.rollout_id in self._spared:
            decision = replace(decision, reason=Reason.RESCUE)
        self._decisions[decision.rollout_id] = decision

    @property
    def _observing(self) -> dict[str, Any]:
        return NeverRule(probe_tokens=self._config.probe_tokens, observe=True).model_dump(mode="json")

    @property
    def _rule(self) -> dict[str, Any]:
        """The rule in flat JSON values; ``oracle`` only looks, it decides after verification."""
        return self._observing if isinstance(self._config, OracleRule) else self._config.model_dump(mode="json")

    def arguments(self, request: GroupRequest, index: int, *, num_groups: int, later: bool = False) -> dict[str, Any]:
        """``extra_args`` of one rollout; empty when nobody is to be looked at. ``later``: others had begun before."""
        if not self.probe_tokens:
            return {}
        whole_batch = request.prune and isinstance(self._config, NeymanRule) and self._config.scope == "batch"
        return pruning_args(
            group=str(request.group),
            size=request.size,
            index=index - request.first,
            first=request.first or None,
            later=later or None,
            step=request.step,
            batch_groups=num_groups if whole_batch else None,
            seed=self._seed,
            success_rate=request.success_rate,
            report=True,
            **(self._rule if request.prune else self._observing),
        )

    def decisions(self, step: int, group: int) -> list[PruningDecision]:
        ids = [RolloutId(step, group, index) for index in range(self._sizes[step, group])]
        return [self._decisions[rollout_id] for rollout_id in ids if rollout_id in self._decisions]

    def decision(self, rollout_id: RolloutId) -> PruningDecision | None:
        return self._decisions.get(rollout_id)

    def save(self) -> State:
        return {}

    def load(self, state: State) -> None:
        """Nothing is held between steps."""
