"""What the service says of a run that goes on and yet goes wrong: long silence, and a probe that few rollouts reach."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from arrol.types import FinishReason, RolloutGroup

SILENCE_S = 300.0
"""Seconds without a report of any rollout after which the groups that wait are named; then twice as long each time."""
FEW = 0.5
"""Share of rollouts at the first probe below which another probe is suggested."""


class Silence:
    """How long no rollout has reported."""

    def __init__(self) -> None:
        self._reports = self._seen = 0
        self._since: float | None = None
        self._limit = SILENCE_S

    def heard(self) -> None:
        """A rollout has reported, or a batch has begun."""
        self._reports += 1

    def seconds(self, now: float) -> float | None:
        """Length of the silence when it is to be told, in seconds; ``now`` is any clock's."""
        if self._since is None or self._seen != self._reports:
            self._since, self._seen, self._limit = now, self._reports, SILENCE_S
        silent = now - self._since
        if silent < self._limit:
            return None
        self._limit *= 2
        return silent


def waiting_for(missing: dict[tuple[int, int], list[int]]) -> str:
    """Rollouts that have not ended, by group: the first three groups, and how many more."""
    named = [f"group {group} of step {step} for rollouts {indices}" for (step, group), indices in missing.items()]
    return "; ".join(named[:3]) + (f"; and {len(named) - 3} more groups" if len(named) > 3 else "")


def probe_advice(groups: Sequence[RolloutGroup], probe_tokens: int) -> str | None:
    """A line where fewer than half of the rollouts wrote ``probe_tokens``; their median length is known then."""
    completions = [rollout.completion for group in groups for rollout in group.rollouts]
    lengths = [each.num_tokens for each in completions if each.finish_reason is not FinishReason.ERROR]
    share = float(np.mean([length >= probe_tokens for length in lengths])) if lengths else 1.0
    if share >= FEW:
        return None
    median = int(np.median(lengths))
    return (
        f"arrol: {share:.0%} of the rollouts wrote the {probe_tokens} tokens of the probe, so little can be pruned; "
        f"half of them ended within {median}: set +arrol.probe_tokens={max(median // 2, 1)}"
    )
