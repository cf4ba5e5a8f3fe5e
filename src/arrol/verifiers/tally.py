"""What reward functions gave in a step or an evaluation: means, failures, and an end where every call failed."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from arrol.errors import DataError
from arrol.types import Verdict


class RewardTally:
    """Verdicts of reward functions; those of a verifier, which names no function, are passed over."""

    def __init__(self, verdicts: Iterable[Verdict] = ()) -> None:
        self._rewards: list[float] = []
        self._parts: dict[str, list[float]] = {}
        self._num_judged = 0
        self._failures: list[str] = []
        for verdict in verdicts:
            self.add(verdict)

    def add(self, verdict: Verdict) -> None:
        """Count one verdict."""
        if not verdict.parts and not verdict.failed:
            return
        self._num_judged += 1
        self._rewards.append(verdict.reward)
        if verdict.failed:
            self._failures.append(verdict.reason)
        for name, value in verdict.parts:
            self._parts.setdefault(name, []).append(value)

    def require_one(self, where: str) -> None:
        """DataError with the first failure where all verdicts failed; ``where`` is the step, in words."""
        if self._num_judged and len(self._failures) == self._num_judged:
            raise DataError(
                f"{self._failures[0]}; all {self._num_judged} rewards of {where} failed, the first like this: mend the "
                "function"
            )

    def metrics(self, prefix: str) -> dict[str, float]:
        """Mean reward, mean of each function, completions without a reward; empty where no function judged."""
        if not self._num_judged:
            return {}
        missing = sum(map(math.isnan, self._rewards)) - len(self._failures)
        return {
            f"{prefix}/mean": _mean(self._rewards),
            **{f"{prefix}/{name}/mean": _mean(values) for name, values in self._parts.items()},
            f"{prefix}/failed": float(len(self._failures)),
            f"{prefix}/missing": float(missing),
        }


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
