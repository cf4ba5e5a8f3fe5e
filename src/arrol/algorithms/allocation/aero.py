"""AERO, arXiv 2602.14338: explore, stratify, rescue, reject. Pure functions of counts.

With c right of n verified, u = c / n, compared in whole numbers:

    rescue  c = 0        ``rescue_step`` more at a time, until the first success or the budget ends
    low     0 < u < 1/2  up to ``group_size``; all right and ``wrong_ratio`` c of the wrong ones train
    high    u >= 1/2     nothing more; all train (``mirror``: all wrong and ``wrong_ratio`` (n - c) of the right ones)

Sourced: the skeleton. Ours, each a switch or a line in ``docs/algorithms/allocation.md``:

1. Order of spending: rescues first, fewest waves and then highest posterior mean first; then low, then high prompts
   (``top_up_easy``). These wait while prompts that may still need a rescue could claim what is left of the budget.
2. Waves are per prompt: a prompt does not wait for the exploration of others, so freed rows are used at once.
3. A rescued prompt is put in a stratum again by its new u.
4. A prompt that stays uniform: with the posterior advantage ``explore_size`` of its rollouts train, with the weight of
   all; without, none, but under ``corrected`` it counts in the denominators, as in the full group's loss. There, behind
   draws with weights, survivors of equal rewards are no uniform group: they all train.

Rescue is inverse sampling: s/n of a rescued prompt is too large, the posterior is not. Legend: ``P`` prompts, ``N``
waves.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np

from arrol.algorithms.allocation.rule import AllocationRule, Outcomes, StepShape, Tally
from arrol.algorithms.allocation.selection import Selection, dead, empty, rejected, whole
from arrol.configs.allocation import AeroAllocation


class Stratum(IntEnum):
    """Kind of a prompt by its counts."""

    RESCUE = 0
    LOW = 1
    HIGH = 2


def strata(right_P: np.ndarray, verified_P: np.ndarray) -> np.ndarray:
    """:class:`Stratum` of each prompt, int ``[P]``."""
    low_P = 2 * right_P < verified_P
    return np.where(right_P == 0, Stratum.RESCUE, np.where(low_P, Stratum.LOW, Stratum.HIGH))


def next_waves(tally: Tally, config: AeroAllocation, shape: StepShape) -> np.ndarray:
    """int ``[2, N]``: prompts and sizes, the most urgent first, within ``rollout_budget`` and ``max_group``."""
    left = (config.rollout_budget or shape.num_rollouts) - int(tally.asked_P.sum())
    limit = config.max_group or shape.group_size
    stratum_P, idle_P = strata(tally.right_P, tally.verified_P), tally.is_idle_P
    room_P = np.maximum(limit - tally.asked_P, 0)
    hopeless_P = stratum_P == Stratum.RESCUE
    rescue = np.flatnonzero(idle_P & hopeless_P & (room_P > 0))
    if config.posterior.used_for in ("allocation", "both"):
        rescue = rescue[np.lexsort((rescue, -tally.mean_P[rescue], tally.waves_P[rescue]))]
    else:
        rescue = rescue[np.lexsort((rescue, tally.waves_P[rescue]))]
    rescue_N = np.minimum(config.rescue_step, room_P[rescue])
    rescue_N = np.clip(left - (np.cumsum(rescue_N) - rescue_N), 0, rescue_N)  # the last one takes what is left
    rescue, rescue_N = rescue[rescue_N > 0], rescue_N[rescue_N > 0]
    # What prompts without success may still ask for, also while they are being explored.
    reserved = int(room_P[hopeless_P].sum()) - int(rescue_N.sum())
    spare = left - int(rescue_N.sum()) - reserved
    others = top_ups(tally, config, shape)
    others_N = min(shape.group_size, limit) - tally.asked_P[others]
    fitting = np.cumsum(others_N) <= spare
    return np.stack([np.concatenate([rescue, others[fitting]]), np.concatenate([rescue_N, others_N[fitting]])])


def top_ups(tally: Tally, config: AeroAllocation, shape: StepShape) -> np.ndarray:
    """Idle prompts with a success, low before high, that want rollouts which no rescue may still claim."""
    stratum_P = strata(tally.right_P, tally.verified_P)
    open_P = tally.is_idle_P & (tally.asked_P < min(shape.group_size, (config.max_group or shape.group_size)))
    wanted = [Stratum.LOW, *([Stratum.HIGH] if config.top_up_easy else [])]
    return np.concatenate([np.flatnonzero(open_P & (stratum_P == stratum)) for stratum in wanted])


def select(outcomes: Outcomes, config: AeroAllocation, key: Sequence[int]) -> Selection:
    """What trains of a group."""
    right_G, wrong_G, reject = outcomes.right_G, outcomes.wrong_G, config.rejection
    num_right, num_wrong = int(right_G.sum()), int(wrong_G.sum())
    if outcomes.is_uniform:
        if config.posterior.used_for in ("advantage", "both"):
            return rejected(np.zeros(len(right_G), bool), right_G | wrong_G, config.explore_size, "corrected", key)
        if reject.baseline != "corrected":
            return empty(len(right_G), "uniform")
        return dead(len(right_G)) if outcomes.is_dead else whole(len(right_G))
    stratum = int(strata(np.array([num_right]), np.array([num_right + num_wrong]))[0])
    if stratum == Stratum.LOW:
        return rejected(right_G, wrong_G, _surplus(reject.wrong_ratio, num_right), reject.baseline, key)
    if reject.mirror:
        return rejected(wrong_G, right_G, _surplus(reject.wrong_ratio, num_wrong), reject.baseline, key)
    return whole(len(right_G))


def _surplus(ratio: float, rare: int) -> int:
    return max(1, round(ratio * rare))


class Aero(AllocationRule[AeroAllocation]):
    """The rule behind its interface."""

    @property
    def first_size(self) -> int:
        return self.config.explore_size

    def next_waves(self, tally: Tally) -> np.ndarray:
        return next_waves(tally, self.config, self.shape)

    def waits_for_running(self, tally: Tally) -> bool:
        return len(top_ups(tally, self.config, self.shape)) > 0

    def may_prune(self, tally: Tally) -> np.ndarray:
        return (strata(tally.right_P, tally.verified_P) != Stratum.RESCUE) | self.config.prune_rescue

    def select(self, outcomes: Outcomes, key: Sequence[int]) -> Selection:
        return select(outcomes, self.config, key)

    def strata(self, right_P: np.ndarray, verified_P: np.ndarray) -> dict[str, int]:
        found = np.bincount(strata(right_P, verified_P), minlength=len(Stratum))
        return {stratum.name.lower(): int(found[stratum]) for stratum in Stratum}
