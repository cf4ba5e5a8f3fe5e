"""How many rollouts a prompt gets: Reinforce-Ada's rounds, Pilot-Commit's two stages, Knapsack RL's budget, Neyman's.

* ``reinforce_ada``  arXiv 2510.04996. Rounds of ``round_size`` until the exit condition or ``max_rounds``; of each
                     prompt at most ``keep_size`` train, as balanced as they can be; mean and spread from all.
* ``pilot_commit``   arXiv 2605.26606. ``pilot_size`` for all, ``commit_size`` more where lowest <= rate <= highest
                     (16 + 48, 0.125, 0.75 there); the others do not train and other prompts are drawn for them;
                     prompts with a perfect pilot are evicted. Deviation: prompts are replaced one by one.
* ``knapsack``       arXiv 2509.25849. N rollouts at rate p are worth (1 - p^N - (1-p)^N) p (1-p)^2. Each further one is
                     worth less, so the best use of a budget is greedy, and equals the paper's dynamic programme.
                     Deviations: (1) p is the posterior mean, never 0 or 1, so no separate rule for p = 0 is needed;
                     (2) a ceiling ``max_group`` instead of an expected cost.
* ``neyman``         ours. A group of n has the error p (1-p) |S|^2 / (n-1) about, so for a budget n - 1 is proportional
                     to the root of E[p (1-p)] under the posterior, which never is 0: one unlucky visit starves no
                     prompt. Weights (mean n - 1) / (n - 1) give every prompt the same share of the gradient, so the
                     objective stays that of equal groups. Gradients and lengths are taken to be equal.

Legend: ``P`` prompts, ``N`` rollouts of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from arrol.algorithms.allocation.prompts import DynamicSampling
from arrol.algorithms.allocation.rule import AllocationRule, Believe, Outcomes, Source, StepShape, Tally, first_accepted
from arrol.algorithms.allocation.selection import Selection, balanced, empty, whole
from arrol.algorithms.posterior import Belief, rate_variance
from arrol.configs.allocation import (
    KnapsackAllocation,
    NeymanAllocation,
    PilotCommitAllocation,
    ReinforceAdaAllocation,
)
from arrol.stats import bisect_increasing
from arrol.types import Prompt, RolloutGroup, State


class ReinforceAda(AllocationRule[ReinforceAdaAllocation]):
    """Rounds with elimination."""

    @property
    def first_size(self) -> int:
        return self.config.round_size

    def next_waves(self, tally: Tally) -> np.ndarray:
        done_P = has_shown_enough(tally.right_P, tally.verified_P, self.config)
        prompts = np.flatnonzero(tally.is_idle_P & ~done_P & (tally.waves_P < self.config.max_rounds))
        return np.stack([prompts, np.full(len(prompts), self.config.round_size)])

    def select(self, outcomes: Outcomes, key: Sequence[int]) -> Selection:
        return balanced(outcomes.right_G, outcomes.wrong_G, self.config.keep_size, key)


def has_shown_enough(right_P: np.ndarray, verified_P: np.ndarray, config: ReinforceAdaAllocation) -> np.ndarray:
    """bool ``[P]``: the exit condition."""
    if config.exit == "positive":
        return right_P >= 1
    half = config.keep_size // 2
    return (right_P >= half) & (verified_P - right_P >= half)


class PilotCommit(DynamicSampling[PilotCommitAllocation]):
    """Two stages."""

    def __init__(self, config: PilotCommitAllocation, shape: StepShape) -> None:
        super().__init__(config, shape)
        self._evicted: set[str] = set()

    @property
    def first_size(self) -> int:
        return self.config.pilot_size

    def draw(self, count: int, source: Source, believe: Believe, key: Sequence[int]) -> list[Prompt]:
        return [first_accepted(source, lambda prompt: prompt.key not in self._evicted) for _ in range(count)]

    def next_waves(self, tally: Tally) -> np.ndarray:
        prompts = np.flatnonzero(tally.is_idle_P & (tally.waves_P == 1) & self._is_promising(tally))
        return np.stack([prompts, np.full(len(prompts), self.config.commit_size)])

    def select(self, outcomes: Outcomes, key: Sequence[int]) -> Selection:
        count, right, wrong = len(outcomes.reward_G), int(outcomes.right_G.sum()), int(outcomes.wrong_G.sum())
        if count > self.config.pilot_size:
            return whole(count)
        return empty(count, "too_easy" if right > self.config.highest * (right + wrong) else "deferred")

    def learn(self, groups: Sequence[RolloutGroup], tally: Tally) -> None:
        if self.config.evict:
            whole_P = tally.verified_P >= self.config.pilot_size  # few survivors of a pruned pilot prove little
            solved_P = whole_P & (tally.right_P == tally.verified_P)
            self._evicted |= {group.prompt.key for group, solved in zip(groups, solved_P, strict=True) if solved}

    def save(self) -> State:
        return {"evicted": sorted(self._evicted)}

    def load(self, state: State) -> None:
        self._evicted = set(cast(list[str], state["evicted"]))

    def metrics(self) -> dict[str, float]:
        return {"allocation/prompts_evicted": float(len(self._evicted))}

    def _is_useful(self, tally: Tally) -> np.ndarray:
        return (tally.waves_P > 1) | (tally.is_idle_P & self._is_promising(tally))

    def _num_open(self, tally: Tally) -> int:
        return int((~tally.is_idle_P & (tally.waves_P == 1)).sum())

    def _is_promising(self, tally: Tally) -> np.ndarray:
        rate_P = tally.right_P / np.maximum(tally.verified_P, 1)
        return (tally.verified_P > 0) & (self.config.lowest <= rate_P) & (rate_P <= self.config.highest)


class Knapsack(AllocationRule[KnapsackAllocation]):
    """All rollouts in one wave, sizes by what is believed of the prompts."""

    is_single_wave = True

    @property
    def first_size(self) -> int:
        return self.config.least

    def first_waves(self, belief_P: Sequence[Belief]) -> np.ndarray:
        config, shape = self.config, self.shape
        return knapsack_sizes(
            np.array([belief.mean for belief in belief_P]),
            config.rollout_budget or shape.num_rollouts,
            least=config.least,
            most=config.max_group or 4 * shape.group_size,
        )


class Neyman(AllocationRule[NeymanAllocation]):
    """All rollouts in one wave, sizes by the expected variance of the outcome."""

    is_single_wave = True

    @property
    def first_size(self) -> int:
        return self.config.least

    def first_waves(self, belief_P: Sequence[Belief]) -> np.ndarray:
        config, shape = self.config, self.shape
        spread_P = np.sqrt([rate_variance(belief, "expected") for belief in belief_P])
        budget = shape.group_size * len(belief_P)
        return neyman_sizes(spread_P, budget, least=config.least, most=config.max_group or 4 * shape.group_size)

    def select(self, outcomes: Outcomes, key: Sequence[int]) -> Selection:
        return equal_share(len(outcomes.reward_G), self.shape.group_size)


def equal_share(count: int, group_size: int) -> Selection:
    """All train, with weights that give the group of ``count`` the same share of the gradient as one of
    ``group_size``."""
    factor = (group_size - 1) / max(count - 1, 1)
    return Selection(np.ones(count, bool), np.full(count, factor), is_whole=True)


def neyman_sizes(spread_P: np.ndarray, budget: int, *, least: int, most: int, beyond: int = 1) -> np.ndarray:
    """int ``[P]``: sizes in [least, most] that add up to the budget, size - ``beyond`` proportional to the spread where
    it can.

    ``spread_P`` is above 0. Sizes are rounded down, then the largest remainders go up; ties to the earlier prompt.
    """
    budget = int(np.clip(budget, least * len(spread_P), most * len(spread_P)))

    def excess(log_scale: float) -> float:
        return float(np.clip(beyond + np.exp(log_scale) * spread_P, least, most).sum()) - budget

    reach = float(np.log(most / spread_P.min())) + 1.0
    size_P = np.clip(beyond + np.exp(bisect_increasing(excess, -40.0, reach)) * spread_P, least, most)
    whole_P = np.floor(size_P + 1e-9).astype(int)
    missing = budget - int(whole_P.sum())
    order = np.argsort(-np.where(whole_P < most, size_P - whole_P, -1.0), kind="stable")
    whole_P[order[:missing]] += 1
    return whole_P


def rollouts_value(rate: np.ndarray, count: np.ndarray) -> np.ndarray:
    """What so many rollouts at a success rate are worth (arXiv 2509.25849)."""
    return (1 - rate**count - (1 - rate) ** count) * rate * (1 - rate) ** 2


def knapsack_sizes(rate_P: np.ndarray, budget: int, *, least: int, most: int) -> np.ndarray:
    """int ``[P]``: sizes of largest total value within the budget, each in [least, most]."""
    size_P = np.full(len(rate_P), least)
    spare = min(budget - least * len(rate_P), (most - least) * len(rate_P))
    if spare <= 0:
        return size_P
    counts_N = np.arange(least, most)
    gain_PN = rollouts_value(rate_P[:, None], counts_N + 1) - rollouts_value(rate_P[:, None], counts_N)
    gain_PN = np.minimum.accumulate(gain_PN, axis=1)  # rounding must not undo that each further one is worth less
    # A tie goes to the smaller size, then to the earlier prompt: sizes stay contiguous.
    order = np.lexsort(
        (np.repeat(np.arange(len(rate_P)), len(counts_N)), np.tile(counts_N, len(rate_P)), -gain_PN.ravel())
    )
    return size_P + np.bincount(order[:spare] // len(counts_N), minlength=len(rate_P))
