"""Advantages in TRL's units, and the factors that correct TRL's denominators. Numpy only.

Under ``plain`` without an allocation rule TRL's own advantages train: mean and spread of the survivors. Otherwise they
are replaced by A_i = (1/p_i) (R_i - b) / spread, with b as in :mod:`arrol.algorithms.advantages`, in units of TRL's own
spread (n - 1 in its denominator, 1e-4 added): where no rollout was stopped they equal TRL's. An allocation rule
multiplies each row that trains by the number it stands for. A posterior and ``mc_grpo`` have their own spread;
``batch`` is the spread of all rewards, whether their rows train or not.

A loss that divides by rows counts stopped rows too, one that divides by tokens does not. With S survivors of N rows
started and T_i tokens, the loss without pruning is estimated by

=====================================  =======================  ==============================
``loss_type``                          ``plain``                ``ipw``, ``doubly_robust``
=====================================  =======================  ==============================
grpo, dr_grpo, sapo, luspo (rows)      sum / S                  weighted sum / N
dapo, cispo, vespo (tokens, global)    sum / sum T              weighted sum / weighted sum T
bnpo (tokens of the microbatch)        the same, locally        the same, locally
=====================================  =======================  ==============================

Where a selection leaves rows out, S and N are the summed weights of what trains, or the whole group where its rows
stand for it (``Selection.is_whole``), and sums over tokens are weighted. Policy terms are proportional to advantages,
so the factors multiply advantages; a KL or entropy term keeps TRL's mean over the rows at hand.
Legend: ``G`` rollouts of a group, ``R`` of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from arrol.algorithms.contribution import contribution
from arrol.algorithms.lesson import Lesson, Observed, lesson_signal
from arrol.algorithms.thinning import thinned
from arrol.configs.host import HostConfig
from arrol.configs.method import AlgorithmBase, GrpoConfig, McGrpoConfig
from arrol.integrations.trl.batch import RewardedGroup
from arrol.pruning.draws import joint_survival
from arrol.types import Contribution

MEAN_OF_TOKENS = ("grpo", "sapo")
"""Loss types that take the mean over the tokens of a row."""
BY_ROWS = ("grpo", "dr_grpo", "sapo", "luspo")
BY_TOKENS = ("dapo", "cispo", "vespo")
BY_LOCAL_TOKENS = ("bnpo",)
LOSS_TYPES = BY_ROWS + BY_TOKENS + BY_LOCAL_TOKENS


class SpreadUnit(NamedTuple):
    """How a trainer of TRL divides by a group's standard deviation."""

    epsilon: float
    is_sample: bool
    """Divided by n - 1, not by n."""


GRPO_SPREAD = SpreadUnit(1e-4, is_sample=True)


@dataclass
class OutcomeValues:
    """Mean total reward of wrong and of right answers in earlier batches: predicts a reward from a quality.

    Only earlier batches, since a prediction must not depend on the lottery that its rollout takes part in.
    """

    wrong: float = 0.0
    right: float = 1.0
    decay: float = 0.9

    def predict(self, quality_G: np.ndarray) -> np.ndarray:
        return self.wrong + quality_G * (self.right - self.wrong)

    def learn(self, groups: Sequence[RewardedGroup]) -> None:
        """Means are weighted by 1/survival."""
        label = np.concatenate([each.group.rewards_G for each in groups])
        total = np.concatenate([each.total_G for each in groups])
        weight = 1.0 / np.concatenate([each.group.survival_G for each in groups])
        for name, value in (("wrong", 0.0), ("right", 1.0)):
            rows = (label == value) & ~np.isnan(total)
            if rows.any():
                mean = float(np.average(total[rows], weights=weight[rows]))
                setattr(self, name, self.decay * getattr(self, name) + (1 - self.decay) * mean)


class GroupAdvantages(NamedTuple):
    """A group's part of the loss."""

    advantage_G: np.ndarray
    """float64 ``[G]``: advantage times weight; 0 where nothing trains."""
    weight_G: np.ndarray
    """float64 ``[G]``: rollouts that a row stands for, such as 1/survival; 0 for stopped and left-out rows."""
    effective_rollouts: float
    """Contribution to a denominator that counts rows."""


def trl_advantages(groups: Sequence[RewardedGroup], scale: str) -> list[np.ndarray]:
    """TRL's own advantages ``[G]`` of rewarded survivors, 0 for other rows: mean and spread of the survivors."""
    batch = [each.total_G[~np.isnan(each.total_G)] for each in groups]
    found = []
    for each, known in zip(groups, batch, strict=True):
        behind = np.concatenate(batch) if scale == "batch" else known
        spread = float(np.std(behind, ddof=1)) if len(behind) > 1 else 0.0
        apart_G = np.nan_to_num(each.total_G - (known.mean() if len(known) else 0.0))
        found.append(apart_G if scale == "none" else apart_G / (spread + GRPO_SPREAD.epsilon))
    return found


def unweighted(known: GroupAdvantages) -> np.ndarray:
    """float64 ``[G]``: advantages before their weights; 0 where nothing trains."""
    return np.divide(known.advantage_G, known.weight_G, where=known.weight_G > 0, out=0 * known.weight_G)


def contributions(
    groups: Sequence[RewardedGroup], advantages: Sequence[GroupAdvantages], loss_type: str
) -> list[Contribution]:
    """What the rollouts of a batch contributed, in the units of TRL's advantages."""
    found = []
    for each, known in zip(groups, advantages, strict=True):
        found.append(contribution(each.group, unweighted(known), is_token_mean=loss_type in MEAN_OF_TOKENS))
    return found


def thinning_factors(
    groups: Sequence[RewardedGroup], advantages: Sequence[GroupAdvantages], share: float, *, seed: int
) -> list[np.ndarray]:
    """Factors ``[G]`` of each group's advantages (:mod:`arrol.algorithms.thinning`); 0 for rows that do not train.

    Weights stay, and with them every denominator. All 1 in a batch without pruned rollouts, and for ``share`` 0.
    """
    factors = [np.ones(len(each.group.rollouts)) for each in groups]
    if not share or not any(each.is_pruned for each in groups):
        return factors
    advantage_R = np.concatenate([each.advantage_G for each in advantages])
    rollout_ids = [rollout.rollout_id for each in groups for rollout in each.group.rollouts]
    rows, factor_R = np.flatnonzero(advantage_R), np.zeros(len(advantage_R))
    factor_R[rows] = thinned(advantage_R[rows], [rollout_ids[row] for row in rows], share, seed=seed)
    return np.split(factor_R, np.cumsum([len(part) for part in factors])[:-1])


def survivor_counts(groups: Sequence[RewardedGroup]) -> list[GroupAdvantages]:
    """Weight 1 for survivors and no advantages, where TRL's own train."""
    survived = [np.array([r.survived for r in each.group.rollouts], float) for each in groups]
    return [GroupAdvantages(np.zeros(len(each_G)), each_G, float(each_G.sum())) for each_G in survived]


def own_advantages(
    groups: Sequence[RewardedGroup],
    lessons: Sequence[Lesson],
    host: HostConfig,
    scale: str,
    values: OutcomeValues,
    unit: SpreadUnit = GRPO_SPREAD,
) -> list[GroupAdvantages]:
    """Advantages that replace TRL's, under its ``scale_rewards``: group, batch or none.

    A row without a reward has advantage 0 and counts as a row, as in TRL; its group's statistics leave it out.
    """
    batch_spread = _batch_spread(groups) if scale == "batch" else 0.0
    found = []
    for rewarded, lesson in zip(groups, lessons, strict=True):
        has_spread = lesson.belief is not None or host.algorithm == "mc_grpo"
        config = _algorithm(host, normalizes=has_spread and scale == "group")
        group, ignored_G = rewarded.group, lesson.excluded_G
        rows, train_G = np.flatnonzero(rewarded.counted_G & ~ignored_G), lesson.selection.train_G & ~ignored_G
        survived_G = np.array([rollout.survived for rollout in group.rollouts])
        advantage_G, weight_G = np.zeros(len(train_G)), np.where(survived_G & train_G, 1 / group.survival_G, 0.0)
        silent_G = train_G & ~rewarded.counted_G & (survived_G | (config.correction != "plain"))
        joint_GG = joint_survival(group.decisions_G)
        whole = Observed(rewarded.total_G, group.survival_G, values.predict(group.quality_G), joint_GG)
        seen = whole.of(rows)
        signal = lesson_signal(seen, _of(lesson, rows), config, posterior=host.allocation.posterior)
        advantage_G[rows], weight_G[rows] = signal.advantage_G * signal.weight_G, signal.weight_G
        if scale != "none" and not has_spread and not np.isnan(signal.spread):
            size = _baseline_size(seen, lesson, rows, config)
            group_spread = _sample_spread(signal.spread, size) if unit.is_sample else signal.spread
            advantage_G /= (batch_spread if scale == "batch" else group_spread) + unit.epsilon
        found.append(GroupAdvantages(advantage_G, weight_G, signal.effective_rollouts + float(silent_G.sum())))
    return found


def _algorithm(host: HostConfig, *, normalizes: bool) -> GrpoConfig | McGrpoConfig:
    if host.algorithm == "mc_grpo":
        return McGrpoConfig(normalize_by_std=normalizes)
    return GrpoConfig(correction=host.correction, normalize_by_std=normalizes)


def _of(lesson: Lesson, rows: np.ndarray) -> Lesson:
    """The lesson of some of the rollouts."""
    chosen = lesson.selection
    part = replace(chosen, train_G=chosen.train_G[rows], factor_G=chosen.factor_G[rows])
    return lesson._replace(selection=part, ignored_G=None)


def _baseline_size(seen: Observed, lesson: Lesson, rows: np.ndarray, config: AlgorithmBase) -> int:
    """Rollouts behind mean and spread."""
    behind = lesson.selection.train_G[rows] if lesson.selection.baseline == "kept" else np.ones(len(rows), bool)
    return int((behind & ~np.isnan(seen.reward_G)).sum() if config.correction == "plain" else behind.sum())


def _sample_spread(spread: float, size: int) -> float:
    """A population's spread as a sample's: TRL divides by n - 1."""
    return spread * float(np.sqrt(size / (size - 1))) if size > 1 else 0.0


def _batch_spread(groups: Sequence[RewardedGroup]) -> float:
    """Spread of all rewards of the batch, weighted by 1/survival."""
    total = np.concatenate([each.total_G for each in groups])
    weight = 1.0 / np.concatenate([each.group.survival_G for each in groups])
    total, weight = total[~np.isnan(total)], weight[~np.isnan(total)]
    started = sum(int(each.counted_G.sum()) for each in groups)
    if len(total) < 2:
        return 0.0
    variance = np.average((total - np.average(total, weights=weight)) ** 2, weights=weight)
    return float(np.sqrt(variance * started / (started - 1)))


@dataclass(frozen=True)
class BatchTotals:
    """Sizes of a batch over all ranks."""

    rows: int
    """TRL's rows."""
    effective_rollouts: float
    """What a loss by rows should divide by."""
    tokens: float
    """Tokens of the survivors."""
    weighted_tokens: float
    """Tokens of the rows that train, times their weights."""

    @classmethod
    def of(
        cls, groups: Sequence[RewardedGroup], advantages: Sequence[GroupAdvantages], rows: int, *, skip_truncated: bool
    ) -> BatchTotals:
        """``skip_truncated``: completions at the length limit have no loss (TRL's ``mask_truncated_completions``)."""
        rollouts = [rollout for each in groups for rollout in each.group.rollouts]
        has_loss_R = [r.survived and not (skip_truncated and r.is_truncated) for r in rollouts]
        length_R = np.array([r.completion.num_tokens for r in rollouts], float) * has_loss_R
        weight_R = np.concatenate([each.weight_G for each in advantages])
        effective = sum(each.effective_rollouts for each in advantages)
        return cls(rows, effective, float(length_R.sum()), float((weight_R * length_R).sum()))


class MicrobatchSizes(NamedTuple):
    """Sizes of the rows that TRL gives to one call of the loss."""

    started: int
    """All rows."""
    present: int
    """Rows kept."""
    tokens: float
    """In the loss."""
    weighted_tokens: float
    """In the loss, times the weights of their rows."""


def loss_factor(loss_type: str, totals: BatchTotals, local: MicrobatchSizes) -> float:
    """The factor of a microbatch's advantages that gives TRL's loss the denominator of the table above."""
    if loss_type in BY_ROWS:
        return totals.rows / max(totals.effective_rollouts, 1.0) * (local.present / local.started)
    if loss_type in BY_TOKENS:
        return totals.tokens / totals.weighted_tokens if totals.weighted_tokens else 1.0
    assert loss_type in BY_LOCAL_TOKENS, loss_type
    return local.tokens / local.weighted_tokens if local.weighted_tokens else 1.0
