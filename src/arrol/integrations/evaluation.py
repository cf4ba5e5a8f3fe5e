"""What a host's evaluation says of a policy: rewards of unpruned rollouts as one row of the learning curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from arrol.records.schema import EvalRecord
from arrol.stats import accuracy_with_interval


class EvaluatedRollout(NamedTuple):
    """One rollout of an evaluation."""

    prompt: str
    """Name of its prompt."""
    total: float
    """Its reward; NaN without one."""
    success: float
    """1 right, 0 wrong or without a reward."""
    tokens: int


def eval_row(judged: Sequence[EvaluatedRollout], step: int, metrics: Mapping[str, float] | None = None) -> EvalRecord:
    """Accuracy with its interval over prompts, of at least one rollout; ``metrics`` stand beside it."""
    by_prompt: dict[str, list[float]] = {}
    for one in judged:
        by_prompt.setdefault(one.prompt, []).append(one.success)
    rows = list(by_prompt.values())
    samples = min(map(len, rows))
    is_whole = all(len(row) == samples for row in rows)
    if not is_whole:  # a rollout failed, or TRL repeats prompts to fill its last batch
        rows = [[float(np.mean(row))] for row in rows]
    accuracy, low, high = accuracy_with_interval(np.array(rows))
    totals = [one.total for one in judged if not math.isnan(one.total)]
    return EvalRecord(
        step=step, accuracy=accuracy, low=low, high=high, num_prompts=len(rows), samples_per_prompt=samples,
        metrics={
            "eval/reward/mean": float(np.mean(totals)) if totals else math.nan,
            "eval/completion_tokens/mean": float(np.mean([one.tokens for one in judged])),
            **(metrics or {}),
        },
    )  # fmt: skip
