"""What outcomes taught us, bounded: probe records for the head, success counts per prompt.

Legend: ``N`` records, ``F`` features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from arrol.types import RolloutGroup, State

_COLUMNS = ("features", "label", "weight", "score", "version")


class ProbeBuffer:
    """The newest ``capacity`` finished candidates of one probe, oldest forgotten first."""

    def __init__(self, capacity: int, num_features: int) -> None:
        self._capacity, self._num_features = capacity, num_features
        self.features_NF = np.zeros((0, num_features), np.float32)
        self.label_N = np.zeros(0)
        """1 right, 0 wrong."""
        self.weight_N = np.zeros(0)
        """1/survival, or 1 where labels are unweighted."""
        self.score_N = np.zeros(0)
        """Score given at the probe, before the outcome was known; NaN where there was none."""
        self.version_N = np.zeros(0)
        """Version of the estimator that gave the score."""

    def __len__(self) -> int:
        return len(self.label_N)

    def push(
        self, features_NF: np.ndarray, label_N: np.ndarray, weight_N: np.ndarray, score_N: np.ndarray, version: int
    ) -> None:
        """Append records of one step; all arrays of one length."""
        new = (features_NF, label_N, weight_N, score_N, np.full(len(label_N), version))
        assert len({len(values) for values in new}) == 1, [len(values) for values in new]
        for name, values in zip(_COLUMNS, new, strict=True):
            attribute = _attribute(name)
            old = getattr(self, attribute)
            setattr(self, attribute, np.concatenate([old, values]).astype(old.dtype)[-self._capacity :])

    def save(self) -> State:
        return {name: getattr(self, _attribute(name)) for name in _COLUMNS}

    def load(self, state: State) -> None:
        for name in _COLUMNS:
            old = getattr(self, _attribute(name))
            setattr(self, _attribute(name), np.asarray(state[name], old.dtype).reshape(-1, *old.shape[1:]))


def _attribute(name: str) -> str:
    return "features_NF" if name == "features" else f"{name}_N"


class PromptHistory:
    """Discounted counts of right and finished rollouts per prompt; older steps count less by ``discount`` per visit."""

    def __init__(self, discount: float = 0.5, max_prompts: int = 1_000_000) -> None:
        self._discount, self._max_prompts = discount, max_prompts
        self._counts: dict[str, tuple[float, float]] = {}

    def success_rate(self, key: str) -> float | None:
        """Share of right rollouts in earlier visits, in [0, 1]; None for a new prompt."""
        right, total = self._counts.get(key, (0.0, 0.0))
        return right / total if total > 0 else None

    def observe(self, key: str, right: float, total: float) -> None:
        """Add one visit; ``right`` and ``total`` may be weighted counts."""
        old_right, old_total = self._counts.pop(key, (0.0, 0.0))
        self._counts[key] = (self._discount * old_right + right, self._discount * old_total + total)
        if len(self._counts) > self._max_prompts:
            self._counts.pop(next(iter(self._counts)))

    def learn(self, groups: Sequence[RolloutGroup]) -> None:
        """One visit of each group's prompt; survivors count 1/survival times."""
        for group in groups:
            counted = [(1.0 / r.survival, float(r.reward)) for r in group.survivors if r.reward is not None]
            if counted:
                right = sum(weight * (reward > 0.5) for weight, reward in counted)
                self.observe(group.prompt.key, right, sum(weight for weight, _ in counted))

    def save(self) -> State:
        return {"counts": {key: list(count) for key, count in self._counts.items()}}

    def load(self, state: State) -> None:
        counts = cast(dict[str, list[float]], state["counts"])
        self._counts = {key: (right, total) for key, (right, total) in counts.items()}

    def metrics(self) -> dict[str, float]:
        return {"quality/prompts_known": float(len(self._counts))}
