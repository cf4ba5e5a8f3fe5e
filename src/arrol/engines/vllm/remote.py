"""The controller as the trainer sees it when decisions are made in another process. Numpy only, no vLLM.

The scheduler of vLLM builds the controller that decides (``groups.py``). What the trainer holds is this: it writes the
arguments that go out with a request and keeps the decisions that come back in its ``stop_reason``. Rollouts that may
not be stopped go out under the rule ``never``, which judges them all the same; of a group that is asked for in waves,
the scheduler draws each wave as a group of its own, so that the floor of survivors holds for each. The population
behind draws without siblings lives with the scheduler and starts empty after a restart; everything else of the method
is saved where it is in other hosts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from arrol.configs.method import NeverRule, NeymanRule, OracleRule, PruningBase
from arrol.engines.vllm.request import pruning_args
from arrol.pruning.controller import decision_metrics
from arrol.types import GroupRequest, PruningDecision, Reason, RolloutId, State


class RemoteController:
    """What a trainer asks of a controller, answered from reports."""

    def __init__(self, config: PruningBase, *, seed: int) -> None:
        self._config, self._seed = config, seed
        self._decisions: dict[tuple[int, int], list[PruningDecision]] = {}
        self._spared: set[RolloutId] = set()
        """Those of the newest step that may not be stopped."""
        self._reasons: Counter[str] = Counter()
        self._num_candidates = self._num_kept = 0

    @property
    def probe_tokens(self) -> tuple[int, ...]:
        idle = isinstance(self._config, NeverRule) and not self._config.observe
        return () if idle else self._config.probe_tokens

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

    def settle(self, requests: Sequence[GroupRequest], decisions: Iterable[PruningDecision]) -> None:
        """Requests have gone out, decisions have come back. A later wave joins its group; others begin anew.

        Groups of steps that these requests do not name are forgotten.
        """
        if requests:
            steps = {request.step for request in requests}
            self._decisions = {key: known for key, known in self._decisions.items() if key[0] in steps}
            self._spared = {rollout_id for rollout_id in self._spared if rollout_id.step in steps}
        for request in requests:
            known = self._decisions.get((request.step, request.group), []) if request.first else []
            self._decisions[request.step, request.group] = known
            (self._spared.difference_update if request.prune else self._spared.update)(request.rollout_ids)
        for decision in decisions:
            if decision.rollout_id in self._spared:
                decision = replace(decision, reason=Reason.RESCUE)
            self._decisions[decision.rollout_id[:2]].append(decision)
            self._num_candidates += 1
            self._num_kept += decision.keep
            self._reasons[decision.reason] += 1

    def decisions(self, step: int, group: int) -> list[PruningDecision]:
        """The last decision about each candidate of a group of the newest step, by rollout index."""
        return sorted(self._decisions[step, group], key=lambda decision: decision.rollout_id)

    def decision(self, rollout_id: RolloutId) -> PruningDecision | None:
        """The last decision about one rollout of the newest step."""
        found = [d for d in self._decisions.get(rollout_id[:2], []) if d.rollout_id == rollout_id]
        return found[0] if found else None

    def save(self) -> State:
        return {}

    def load(self, state: State) -> None:
        """Nothing is held between steps."""

    def metrics(self) -> dict[str, float]:
        """Counts since the last call, under the names of :class:`arrol.pruning.controller.PruningController`."""
        values = decision_metrics(self._num_candidates, self._num_kept, self._reasons)
        self._reasons.clear()
        self._num_candidates = self._num_kept = 0
        return values
