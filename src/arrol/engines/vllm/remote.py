"""The trainer's side of a controller whose decisions are made in vLLM's scheduler. Numpy only, no vLLM.

It writes the pruning arguments of each request and keeps the decisions that come back in ``stop_reason``. Rollouts that
may not be stopped are sent under the rule ``never``, which judges without stopping. Differences from a controller in
this process: these rollouts do not count for their group's floor of survivors; the buffer behind draws without siblings
lives in the scheduler and starts empty after a restart.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from arrol.configs.method import NeverRule, NeymanRule, OracleRule, PruningBase
from arrol.engines.vllm.request import pruning_args
from arrol.protocols import TrainingController
from arrol.types import Contribution, GroupRequest, PruningDecision, Reason, RolloutGroup, RolloutId, State


class RemoteController(TrainingController):
    """Events from this side change nothing: the scheduler sees them itself."""

    def __init__(self, config: PruningBase, *, seed: int) -> None:
        self._config, self._seed = config, seed
        self.run = secrets.token_hex(8)
        """Tells this trainer's groups from those of others on the same server; it changes no draw."""
        self._decisions: dict[RolloutId, PruningDecision] = {}
        self._sizes: dict[tuple[int, int], int] = {}
        """(step, group) -> rollouts requested so far; newest step only."""
        self._unprunable: set[RolloutId] = set()

    @property
    def probe_tokens(self) -> tuple[int, ...]:
        return self._config.probe_tokens if self._config.has_probes else ()

    def open(self, step: int, group: int, size: int, success_rate: float | None = None, *, prune: bool = True) -> None:
        """Announce a group, or a later wave of one; groups of other steps are forgotten."""
        if all(known != step for known, _ in self._sizes):
            self._decisions, self._sizes, self._unprunable = {}, {}, set()
        first = self._sizes.get((step, group), 0)
        self._sizes[step, group] = first + size
        if not prune:
            self._unprunable.update(RolloutId(step, group, index) for index in range(first, first + size))

    def decided(self, decision: PruningDecision) -> None:
        """A decision of the scheduler has come back."""
        if decision.rollout_id in self._unprunable:
            decision = replace(decision, reason=Reason.RESCUE)
        self._decisions[decision.rollout_id] = decision

    def arguments(self, request: GroupRequest, index: int, *, num_groups: int, later: bool = False) -> dict[str, Any]:
        """``extra_args`` of one rollout; empty where the rule has no probes.

        ``later``: requests of this call to ``generate`` have been sent before.
        """
        if not self.probe_tokens:
            return {}
        rule: PruningBase = self._config
        if not request.prune or isinstance(rule, OracleRule):  # oracle decides after verification
            rule = NeverRule(probe_tokens=rule.probe_tokens, observe=True)
        whole_batch = isinstance(rule, NeymanRule) and rule.scope == "batch"
        return pruning_args(
            group=str(request.group),
            size=request.size,
            index=index - request.first,
            first=request.first or None,
            later=later or None,
            step=request.step,
            batch_groups=num_groups if whole_batch else None,
            seed=self._seed,
            run=self.run,
            success_rate=request.success_rate,
            report=True,
            **rule.model_dump(mode="json"),
        )

    def decisions(self, step: int, group: int) -> list[PruningDecision]:
        ids = [RolloutId(step, group, index) for index in range(self._sizes[step, group])]
        return [self._decisions[rollout_id] for rollout_id in ids if rollout_id in self._decisions]

    def decision(self, rollout_id: RolloutId) -> PruningDecision | None:
        return self._decisions.get(rollout_id)

    def learn(self, groups: Sequence[RolloutGroup], contributions: Sequence[Contribution]) -> None:
        """No rule of the scheduler learns from outcomes."""

    def metrics(self) -> dict[str, float]:
        return {}

    def save(self) -> State:
        return {}

    def load(self, state: State) -> None:
        """No state outlives a step."""
