"""What a batch teaches under TRL's conventions: advantages, and by how much to correct TRL's denominators. Numpy only.

TRL itself computes the ``plain`` advantages: mean and spread of the survivors. ``ipw`` and ``doubly_robust`` replace
them by A_i = (1/p_i) (R_i - b) / spread, with b as in :mod:`arrol.algorithms.advantages`, in units of TRL's own spread
(n - 1 in its denominator, 1e-4 added), so that a group in which nobody was stopped has the advantages of TRL.

A loss that divides by rows counts stopped rows too, one that divides by tokens does not. With S survivors of N rows
started and T_i tokens, the loss without pruning is estimated by

=====================================  =======================  ==============================
``loss_type``                          ``plain``                ``ipw``, ``doubly_robust``
=====================================  =======================  ==============================
grpo, dr_grpo, sapo, luspo (rows)      sum / S                  weighted sum / N
dapo, cispo, vespo (tokens, global)    sum / sum T              weighted sum / weighted sum T
bnpo (tokens of the microbatch)        the same, locally        the same, locally
=====================================  =======================  ==============================

Every policy term is proportional to its advantage, so these factors multiply the advantages, and the loss stays TRL's.
A KL or entropy term keeps TRL's mean over the rows at hand. Legend: ``G`` rollouts of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from arrol.algorithms.advantages import group_signal
from arrol.configs.method import AlgorithmBase
from arrol.integrations.trl.batch import VerifiedGroup
from arrol.types import FinishReason

Estimator = Literal["plain", "ipw", "doubly_robust"]
TRL_EPSILON = 1e-4
BY_ROWS = ("grpo", "dr_grpo", "sapo", "luspo")
BY_TOKENS = ("dapo", "cispo", "vespo")
BY_LOCAL_TOKENS = ("bnpo",)
LOSS_TYPES = BY_ROWS + BY_TOKENS + BY_LOCAL_TOKENS


@dataclass
class OutcomeValues:
    """Mean total reward of wrong and right answers in earlier batches: turns a quality into a predicted reward.

    Earlier ones only: what is predicted of a rollout must not depend on the lottery it takes part in.
    """

    wrong: float = 0.0
    right: float = 1.0
    decay: float = 0.9

    def predict(self, quality_G: np.ndarray) -> np.ndarray:
        return self.wrong + quality_G * (self.right - self.wrong)

    def learn(self, groups: Sequence[VerifiedGroup]) -> None:
        """Weighted by 1/survival."""
        rows = [
            (rollout.reward, total, 1.0 / rollout.survival)
            for verified in groups
            for rollout, total in zip(verified.group.rollouts, verified.total_G, strict=True)
            if rollout.reward is not None and not np.isnan(total)
        ]
        for name, label in (("wrong", 0.0), ("right", 1.0)):
            mine = [(total, weight) for reward, total, weight in rows if reward == label]
            if mine:
                mean = float(np.average([total for total, _ in mine], weights=[weight for _, weight in mine]))
                setattr(self, name, self.decay * getattr(self, name) + (1 - self.decay) * mean)


def corrected_advantages(
    groups: Sequence[VerifiedGroup],
    *,
    estimator: Estimator,
    scale: Literal["group", "batch", "none"],
    exact_count: bool,
    values: OutcomeValues,
) -> list[np.ndarray]:
    """Per group float64 ``[G]``: advantage times 1/survival, 0 where nothing is taught. Not for ``plain``."""
    config = AlgorithmBase(estimator=estimator)
    batch_spread = _spread(groups) if scale == "batch" else 0.0
    found = []
    for verified in groups:
        counted = verified.counted_G
        advantage_G = np.zeros(len(counted))
        found.append(advantage_G)
        if not counted.any():
            continue
        signal = group_signal(
            verified.total_G[counted],
            verified.group.survival_G[counted],
            values.predict(verified.group.quality_G)[counted],
            config,
            normalize_by_std=False,
            exact_count=exact_count,
        )
        advantage_G[counted] = signal.advantage_G * signal.weight_G
        if scale != "none":
            spread = batch_spread if scale == "batch" else _group_spread(signal.spread, int(counted.sum()))
            advantage_G /= spread + TRL_EPSILON
    return found


def _group_spread(spread: float, size: int) -> float:
    """Of a population, as of a sample: TRL divides by n - 1."""
    return spread * float(np.sqrt(size / (size - 1))) if size > 1 else 0.0


def _spread(groups: Sequence[VerifiedGroup]) -> float:
    """Spread of all rewards of the batch, weighted by 1/survival."""
    total = np.concatenate([verified.total_G for verified in groups])
    weight = 1.0 / np.concatenate([verified.group.survival_G for verified in groups])
    total, weight = total[~np.isnan(total)], weight[~np.isnan(total)]
    started = sum(int(verified.counted_G.sum()) for verified in groups)
    if len(total) < 2:
        return 0.0
    variance = np.average((total - np.average(total, weights=weight)) ** 2, weights=weight)
    return float(np.sqrt(variance * started / (started - 1)))


@dataclass(frozen=True)
class BatchTotals:
    """Sizes of a batch over all ranks."""

    rows: int
    """Rollouts started."""
    survivors: int
    tokens: float
    """Of the survivors."""
    weighted_tokens: float
    """Of the survivors, each 1/survival times."""

    @classmethod
    def of(cls, groups: Sequence[VerifiedGroup], *, skip_truncated: bool) -> BatchTotals:
        """``skip_truncated``: completions that met the length limit have no loss (``mask_truncated_completions``)."""
        rollouts = [rollout for verified in groups for rollout in verified.group.rollouts]
        survivors = [r for r in rollouts if r.survived]
        lengths = [
            0 if skip_truncated and r.completion.finish_reason is FinishReason.LENGTH else r.completion.num_tokens
            for r in survivors
        ]
        weighted = sum(length / r.survival for length, r in zip(lengths, survivors, strict=True))
        return cls(len(rollouts), len(survivors), float(sum(lengths)), float(weighted))


class MicrobatchSizes(NamedTuple):
    """Of the rows that TRL hands to one call of the loss."""

    started: int
    """All of them."""
    present: int
    """Those that stay."""
    tokens: float
    """In the loss."""
    weighted_tokens: float
    """The same, each row 1/survival times."""


def loss_factor(loss_type: str, estimator: Estimator, totals: BatchTotals, local: MicrobatchSizes) -> float:
    """By what to multiply the advantages of a microbatch."""
    if loss_type in BY_ROWS:
        per_row = totals.rows / max(totals.survivors, 1) if estimator == "plain" else 1.0
        return per_row * local.present / local.started
    if estimator == "plain":
        return 1.0
    if loss_type in BY_TOKENS:
        return totals.tokens / totals.weighted_tokens if totals.weighted_tokens else 1.0
    assert loss_type in BY_LOCAL_TOKENS, loss_type
    return local.tokens / local.weighted_tokens if local.weighted_tokens else 1.0
