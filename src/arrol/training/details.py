"""What a tracker shows of a step beside its numbers: some completions, and the rollouts as histograms.

The table has whole groups, so that siblings can be compared. It holds ``MAX_ROWS`` rows at most, and the first
``MAX_CHARACTERS`` of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from arrol.algorithms.advantages import GroupSignal
from arrol.types import FinishReason, Rollout, RolloutGroup

MAX_ROWS = 64
MAX_CHARACTERS = 2000


@dataclass(frozen=True)
class StepDetails:
    """Rows of a table and values of histograms."""

    step: int
    completions: list[dict[str, object]]
    """step, prompt, completion, reward, advantage, ended, tokens, quality, survival; None where there is no value."""
    values: dict[str, np.ndarray]
    """Name -> finite values over all rollouts of the step; a name without any is left out."""


def step_details(
    step: int, groups: Sequence[RolloutGroup], signals: Sequence[GroupSignal], text_of: Callable[[Rollout], str]
) -> StepDetails:
    """Details of verified groups; ``signals`` are theirs, in order."""
    rows: list[dict[str, object]] = []
    for group, signal in zip(groups, signals, strict=True):
        if rows and len(rows) + len(group.rollouts) > MAX_ROWS:
            break
        for rollout, advantage in zip(group.rollouts, signal.advantage_G.tolist(), strict=True):
            judged, completion = rollout.decision, rollout.completion
            is_stopped = completion.finish_reason is FinishReason.PRUNED
            rows.append(
                {
                    "step": step,
                    "prompt": group.prompt.text[:MAX_CHARACTERS],
                    "completion": text_of(rollout)[:MAX_CHARACTERS],
                    "reward": _known(rollout.reward),
                    "advantage": _known(advantage) if rollout.survived else None,
                    "ended": "stopped by pruning" if is_stopped else completion.finish_reason.value,
                    "tokens": completion.num_tokens,
                    "quality": _known(judged.quality) if judged else None,
                    "survival": rollout.survival,
                }
            )
    return StepDetails(step, rows[:MAX_ROWS], _histograms([r for group in groups for r in group.rollouts]))


def _histograms(rollouts: Sequence[Rollout]) -> dict[str, np.ndarray]:
    candidates = [rollout for rollout in rollouts if rollout.decision is not None]
    columns: dict[str, list[float | None]] = {
        "reward": [rollout.reward for rollout in rollouts],
        "completion_tokens": [rollout.completion.num_tokens for rollout in rollouts],
        "quality": [rollout.decision.quality for rollout in candidates if rollout.decision],
        "survival": [rollout.survival for rollout in candidates],
    }
    known = {
        name: np.array([value for value in column if _known(value) is not None], float)
        for name, column in columns.items()
    }
    return {name: values for name, values in known.items() if len(values)}


def _known(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
