"""Full groups of which a subset trains: PODS and CPPO behind the interface of a rule; the mathematics is in
``selection``."""

from __future__ import annotations

from collections.abc import Sequence

from arrol.algorithms.allocation.rule import AllocationRule, Outcomes
from arrol.algorithms.allocation.selection import Selection, cppo, pods
from arrol.configs.allocation import CppoAllocation, PodsAllocation


class Pods(AllocationRule[PodsAllocation]):
    """Largest reward variance; rewards may be graded."""

    needs_binary = False
    is_single_wave = True

    def select(self, outcomes: Outcomes, key: Sequence[int]) -> Selection:
        return pods(outcomes.reward_G, self.config.train_size, key)


class Cppo(AllocationRule[CppoAllocation]):
    """Largest advantage; rewards may be graded."""

    needs_binary = False
    is_single_wave = True

    def select(self, outcomes: Outcomes, key: Sequence[int]) -> Selection:
        return cppo(outcomes.reward_G, self.config.train_size, key)
