"""What a host's evaluation says of a policy: rewards of unpruned rollouts as one row of the learning curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from arrol.records.schema import EvalRecord
from arrol.stats import bootstrap_interval, wilson_interval


class JudgedRollout(NamedTuple):
    """One rollout of an evaluation."""

    prompt: str
    """Name of its prompt."""
    total: float
    """Its reward; NaN without one."""
    success: float
    """1 right, 0 wrong or without a reward."""
    tokens: int


def eval_row(judged: Sequence[JudgedRollout], step: int, metrics: Mapping[str, float] | None = None) -> EvalRecord:
    """Accuracy after ``step``, at least one rollout, with ``metrics`` beside it.

    The 95% interval is Wilson's for one sample per prompt, else a bootstrap over prompts.
    """
    by_prompt: dict[str, list[float]] = {}
    for one in judged:
        by_prompt.setdefault(one.prompt, []).append(one.success)
    mean_P = np.array([np.mean(row) for row in by_prompt.values()])
    samples = min(map(len, by_prompt.values()))
    if max(map(len, by_prompt.values())) == 1:
        low, high = wilson_interval(float(mean_P.sum()), len(mean_P))
    else:
        low, high = bootstrap_interval(mean_P, seed=0)
    totals = [one.total for one in judged if not math.isnan(one.total)]
    return EvalRecord(
        step=step, accuracy=float(mean_P.mean()), low=low, high=high, num_prompts=len(mean_P),
        samples_per_prompt=samples,
        metrics={
            "eval/reward/mean": float(np.mean(totals)) if totals else math.nan,
            "eval/completion_tokens/mean": float(np.mean([one.tokens for one in judged])),
            **(metrics or {}),
        },
    )  # fmt: skip
