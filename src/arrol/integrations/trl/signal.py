"""What a batch teaches under TRL's conventions: advantages, and by how much to correct TRL's denominators. Numpy only.

TRL itself computes the ``plain`` advantages: mean and spread of the survivors. ``ipw`` and ``doubly_robust`` replace
them by A_i = (1/p_i) (R_i - b) / spread, with b as in :mod:`arrol.algorithms.advantages`, in units of TRL's own spread
(n - 1 in its denominator, 1e-4 added), so that a group in which nobody was stopped has the advantages of TRL. An
allocation rule replaces them too: of what a selection keeps, each row times the number that it stands for. The spread
of a posterior and of ``mc_grpo`` is no sample's, so it stays as it is; ``batch`` is the spread of all rewards, left out
or not.

A loss that divides by rows counts stopped rows too, one that divides by tokens does not. With S survivors of N rows
started and T_i tokens, the loss without pruning is estimated by

=====================================  =======================  ==============================
``loss_type``                          ``plain``                ``ipw``, ``doubly_robust``
=====================================  =======================  ==============================
grpo, dr_grpo, sapo, luspo (rows)      sum / S                  weighted sum / N
dapo, cispo, vespo (tokens, global)    sum / sum T              weighted sum / weighted sum T
bnpo (tokens of the microbatch)        the same, locally        the same, locally
=====================================  =======================  ==============================

Where a selection leaves rows out, S and N are the weights of what trains, or the whole group where a few stand for it
(``Selection.is_whole``); sums over tokens are weighted throughout.

Every policy term is proportional to its advantage, so these factors multiply the advantages, and the loss stays TRL's.
A KL or entropy term keeps TRL's mean over the rows at hand. Legend: ``G`` rollouts of a group, ``R`` of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

import numpy as np

from arrol.algorithms.lesson import Lesson, Observed, lesson_signal
from arrol.configs.allocation import PosteriorConfig
from arrol.configs.host import HostConfig
from arrol.configs.method import AlgorithmBase, GrpoConfig, McGrpoConfig
from arrol.integrations.trl.batch import VerifiedGroup

Correction = Literal["plain", "ipw", "doubly_robust"]
Scale = Literal["group", "batch", "none"]
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


class RowSignal(NamedTuple):
    """What a group teaches, in TRL's units."""

    advantage_G: np.ndarray
    """float64 ``[G]``: advantage times weight; 0 where nothing is taught."""
    weight_G: np.ndarray
    """float64 ``[G]``: rollouts that each stands for, 1/survival say; 0 for those that are stopped or left out."""
    stands_for: float
    """The group's part of a denominator that counts rows."""


def trls_own(groups: Sequence[VerifiedGroup]) -> list[RowSignal]:
    """TRL's advantages of the survivors; here they are 0, and nobody asks for them."""
    survived = [np.array([r.survived for r in verified.group.rollouts], float) for verified in groups]
    return [RowSignal(np.zeros(len(each_G)), each_G, float(each_G.sum())) for each_G in survived]


class Terms(NamedTuple):
    """How advantages of our own are computed."""

    correction: Correction
    scale: Scale
    exact_count: bool
    """Survivors were drawn systematically."""
    posterior: PosteriorConfig
    is_mc_grpo: bool = False

    @classmethod
    def of(cls, config: HostConfig, scale: Scale) -> Self:
        is_exact = config.pruning.draw == "systematic"
        return cls(config.correction, scale, is_exact, config.allocation.posterior, config.algorithm == "mc_grpo")

    def algorithm(self, *, has_spread: bool) -> GrpoConfig | McGrpoConfig:
        """In our words; a sample's spread is TRL's business, any other one is taken as it is."""
        normalizes = has_spread and self.scale == "group"
        if self.is_mc_grpo:
            return McGrpoConfig(normalize_by_std=normalizes)
        return GrpoConfig(correction=self.correction, normalize_by_std=normalizes)


def taught(
    groups: Sequence[VerifiedGroup], lessons: Sequence[Lesson], terms: Terms, values: OutcomeValues
) -> list[RowSignal]:
    """Advantages of our own. Rows without a reward teach nothing; they count where their group trains whole."""
    batch_spread = _spread(groups) if terms.scale == "batch" else 0.0
    found = []
    for verified, lesson in zip(groups, lessons, strict=True):
        has_spread = lesson.belief is not None or terms.is_mc_grpo
        config = terms.algorithm(has_spread=has_spread)
        group, ignored_G = verified.group, lesson.excluded_G
        rows, train_G = np.flatnonzero(verified.counted_G & ~ignored_G), lesson.selection.train_G & ~ignored_G
        survived_G = np.array([rollout.survived for rollout in group.rollouts])
        advantage_G, weight_G = np.zeros(len(train_G)), np.where(survived_G & train_G, 1 / group.survival_G, 0.0)
        silent_G = train_G & ~verified.counted_G & (survived_G | (config.correction != "plain"))
        seen = Observed(verified.total_G[rows], group.survival_G[rows], values.predict(group.quality_G)[rows])
        signal = lesson_signal(
            seen, _of(lesson, rows), config, posterior=terms.posterior, exact_count=terms.exact_count
        )
        advantage_G[rows], weight_G[rows] = signal.advantage_G * signal.weight_G, signal.weight_G
        if terms.scale != "none" and not has_spread and len(rows):
            group_spread = _group_spread(signal.spread, _baseline_size(seen, lesson, rows, config))
            advantage_G /= (batch_spread if terms.scale == "batch" else group_spread) + TRL_EPSILON
        found.append(RowSignal(advantage_G, weight_G, signal.stands_for + float(silent_G.sum())))
    return found


def _of(lesson: Lesson, rows: np.ndarray) -> Lesson:
    """The same about some of the rollouts."""
    chosen = lesson.selection
    part = replace(chosen, train_G=chosen.train_G[rows], factor_G=chosen.factor_G[rows])
    return lesson._replace(selection=part, ignored_G=None)


def _baseline_size(seen: Observed, lesson: Lesson, rows: np.ndarray, config: AlgorithmBase) -> int:
    """Rollouts behind mean and spread."""
    behind = lesson.selection.train_G[rows] if lesson.selection.baseline == "kept" else np.ones(len(rows), bool)
    return int((behind & ~np.isnan(seen.reward_G)).sum() if config.correction == "plain" else behind.sum())


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
    """All that TRL has."""
    counted_rows: float
    """What a loss by rows is to be divided by."""
    tokens: float
    """Of the survivors."""
    weighted_tokens: float
    """Of what trains, each row times its weight."""

    @classmethod
    def of(
        cls, groups: Sequence[VerifiedGroup], signals: Sequence[RowSignal], rows: int, *, skip_truncated: bool
    ) -> BatchTotals:
        """``skip_truncated``: completions that met the length limit have no loss (``mask_truncated_completions``)."""
        rollouts = [rollout for verified in groups for rollout in verified.group.rollouts]
        length_R = np.array([r.completion.num_tokens if r.survived else 0 for r in rollouts], float)
        if skip_truncated:
            length_R[[r.is_truncated for r in rollouts]] = 0.0
        weight_R = np.concatenate([signal.weight_G for signal in signals])
        counted = sum(signal.stands_for for signal in signals)
        return cls(rows, counted, float(length_R.sum()), float((weight_R * length_R).sum()))


class MicrobatchSizes(NamedTuple):
    """Of the rows that TRL hands to one call of the loss."""

    started: int
    """All of them."""
    present: int
    """Those that stay."""
    tokens: float
    """In the loss."""
    weighted_tokens: float
    """The same, each row times its weight."""


def loss_factor(loss_type: str, totals: BatchTotals, local: MicrobatchSizes) -> float:
    """By what to multiply the advantages of a microbatch."""
    if loss_type in BY_ROWS:
        return totals.rows / max(totals.counted_rows, 1.0) * (local.present / local.started)
    if loss_type in BY_TOKENS:
        return totals.tokens / totals.weighted_tokens if totals.weighted_tokens else 1.0
    assert loss_type in BY_LOCAL_TOKENS, loss_type
    return local.tokens / local.weighted_tokens if local.weighted_tokens else 1.0
