"""PODS and CPPO as allocation rules: full groups, of which a subset trains (:mod:`.selection`)."""

from __future__ import annotations

from collections.abc import Sequence

from arrol.algorithms.allocation.rule import Outcomes, SingleWave
from arrol.algorithms.allocation.selection import Selection, cppo, pods
from arrol.configs.allocation import CppoAllocation, PodsAllocation


class Subset(SingleWave[PodsAllocation | CppoAllocation]):
    """Largest reward variance (``pods``) or largest advantage (``cppo``), of the reward that trains."""

    def select(self, outcomes: Outcomes, key: Sequence[int]) -> Selection:
        choose = pods if isinstance(self.config, PodsAllocation) else cppo
        return choose(outcomes.reward_G, self.config.train_size, key)
