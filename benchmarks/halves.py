"""A controller that costs next to nothing, for scripts that measure what stopping itself does."""

from __future__ import annotations

from collections.abc import Sequence

from arrol.types import ProbeEvent, PruningDecision, RolloutId


class HalfController:
    """Stops every second rollout at the probe; the cheapest controller there can be."""

    def __init__(self, probe: int) -> None:
        self.probe_tokens = (probe,)

    def open(
        self, step: int, group: int, size: int, success_rate: float | None = None, *, prune: bool = True
    ) -> None: ...

    def probed(self, events: Sequence[ProbeEvent]) -> list[RolloutId]:
        return [event.rollout_id for event in events if event.rollout_id.index % 2]

    def finished(self, rollout_ids: Sequence[RolloutId]) -> list[RolloutId]:
        return []

    def tick(self, now: float) -> list[RolloutId]:
        return []

    def decisions(self, step: int, group: int) -> list[PruningDecision]:
        return []
