"""The controller as the trainer sees it when decisions are made in another process. Numpy only, no vLLM.

The scheduler of vLLM builds the controller that decides (``groups.py``). What the trainer holds is this: it writes the
arguments that go out with a request and keeps the decisions that come back in its ``stop_reason``. The population
behind draws without siblings lives with the scheduler and starts empty after a restart; everything else of the method
is saved where it is in other hosts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from arrol.configs.method import NeverRule, NeymanRule, OracleRule, PruningBase
from arrol.engines.vllm.request import pruning_args
from arrol.pruning.controller import decision_metrics
from arrol.types import GroupRequest, PruningDecision, RolloutId, State


class RemoteController:
    """What a trainer asks of a controller, answered from reports."""

    def __init__(self, config: PruningBase, *, seed: int) -> None:
        self._config, self._seed = config, seed
        self._decisions: dict[tuple[int, int], list[PruningDecision]] = {}
        self._reasons: Counter[str] = Counter()
        self._num_candidates = self._num_kept = 0

    @property
    def probe_tokens(self) -> tuple[int, ...]:
        idle = isinstance(self._config, NeverRule) and not self._config.observe
        return () if idle else self._config.probe_tokens

    @property
    def _rule(self) -> dict[str, Any]:
        """The rule in flat JSON values; ``oracle`` only looks, it decides after verification."""
        if isinstance(self._config, OracleRule):
            return NeverRule(probe_tokens=self._config.probe_tokens, observe=True).model_dump(mode="json")
        return self._config.model_dump(mode="json")

    def arguments(self, request: GroupRequest, index: int, *, num_groups: int) -> dict[str, Any]:
        """``extra_args`` of one rollout; empty when nobody is to be looked at."""
        if not self.probe_tokens:
            return {}
        whole_batch = isinstance(self._config, NeymanRule) and self._config.scope == "batch"
        return pruning_args(
            group=str(request.group),
            size=request.size,
            index=index,
            step=request.step,
            batch_groups=num_groups if whole_batch else None,
            seed=self._seed,
            success_rate=request.success_rate,
            report=True,
            **self._rule,
        )

    def settle(self, requests: Iterable[GroupRequest], decisions: Iterable[PruningDecision]) -> None:
        """Decisions of one step have come back."""
        self._decisions = {(request.step, request.group): [] for request in requests}
        for decision in decisions:
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
