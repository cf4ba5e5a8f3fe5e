"""What outcomes taught us, bounded: probe records for the head, success counts per prompt.

Legend: ``N`` records, ``F`` features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from arrol.types import FinishReason, Rollout, RolloutGroup, State

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


def outcome_counts(
    rollouts: Sequence[Rollout], *, use_quality: bool = False, count_truncated: bool = True
) -> tuple[float, float]:
    """How many right and how many wrong rollouts the verified ones are worth, where some were stopped.

    With survivor i's weight w_i = 1/survival: the rate is sum w R / sum w, the number (sum w)^2 / sum w^2, so a few
    heavy survivors are not taken for many. With ``use_quality`` the rate is the doubly robust (1/G) sum [q + w (R - q)]
    in [0, 1], where stopped rollouts are known by their calibrated probability q alone; the number stays. Without
    pruning both are plain counts. Rollouts that ended in an error are left out. (0, 0) when nothing was verified.
    """
    known = [r for r in rollouts if r.survived and r.label is not None and (count_truncated or not r.is_truncated)]
    if not known:
        return 0.0, 0.0
    weight = np.array([1.0 / r.survival for r in known])
    right = np.array([float(r.label or 0.0) for r in known])
    number, rate = float(weight.sum() ** 2 / np.square(weight).sum()), float((weight * right).sum() / weight.sum())
    stopped = [r for r in rollouts if r.completion.finish_reason is FinishReason.PRUNED and r.decision is not None]
    if use_quality and stopped:
        guess = np.array([r.quality_or(0.0) for r in known])
        guesses = guess.sum() + sum(r.quality_or(0.0) for r in stopped)
        estimate = (guesses + float((weight * (right - guess)).sum())) / (len(known) + len(stopped))
        rate = min(max(estimate, 0.0), 1.0)
    return number * rate, number * (1 - rate)


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

    def counts(self, key: str) -> tuple[float, float]:
        """Discounted counts of right and of wrong rollouts in earlier visits, as the next visit is to see them."""
        right, total = self._counts.get(key, (0.0, 0.0))
        return self._discount * right, self._discount * (total - right)

    def learn(self, groups: Sequence[RolloutGroup], *, use_quality: bool = False, count_truncated: bool = True) -> None:
        """One visit of each group's prompt; see :func:`outcome_counts`."""
        for group in groups:
            right, wrong = outcome_counts(group.rollouts, use_quality=use_quality, count_truncated=count_truncated)
            if right + wrong > 0:
                self.observe(group.prompt.key, right, right + wrong)

    def save(self) -> State:
        return {"counts": {key: list(count) for key, count in self._counts.items()}}

    def load(self, state: State) -> None:
        counts = cast(dict[str, list[float]], state["counts"])
        self._counts = {key: (right, total) for key, (right, total) in counts.items()}

    def metrics(self) -> dict[str, float]:
        return {"quality/prompts_known": float(len(self._counts))}
