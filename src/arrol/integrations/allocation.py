"""Allocation rules inside a host that samples whole groups by itself. Numpy only.

A host lets a rule act before a batch (which prompts, how many rollouts) and after its rewards (which rollouts train,
against which baseline). A rule that needs more is refused by name, and so is a field without effect. Deviation: a rule
that skips prompts chooses among the prompts of one batch. Legend: ``G`` rollouts of a group, ``P`` prompts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from arrol.algorithms.allocation.allocator import Allocator, uses_belief
from arrol.algorithms.allocation.prompts import DRAW_STREAM, Greso, Mopps
from arrol.algorithms.allocation.rule import StepShape
from arrol.algorithms.allocation.sizes import Knapsack
from arrol.algorithms.lesson import Lesson
from arrol.configs.allocation import AllocationConfig
from arrol.errors import ConfigError
from arrol.quality.buffer import PromptHistory
from arrol.types import Prompt, RolloutGroup, State

SHARED_FIELDS = frozenset({"rule", "posterior", "pruned_counts", "count_truncated"})
"""Fields that have their effect in every host."""


def acts(config: AllocationConfig) -> bool:
    """The host's own groups or advantages change."""
    return config.rule != "uniform" or uses_belief(config)


def refuse_unused(
    config: AllocationConfig, used: Mapping[str, frozenset[str]], reasons: Mapping[str, str], host: str
) -> None:
    """ConfigError for a rule outside ``used`` (with its reason), or for a field without effect in this host."""
    if config.rule not in used:
        raise ConfigError(
            f"allocation.rule = {config.rule!r}: {reasons[config.rule]}; use one of {', '.join(used)}, or train with "
            "arrol"
        )
    for name in sorted(config.model_fields_set - SHARED_FIELDS - used[config.rule]):
        raise ConfigError(
            f"allocation.{name} = {getattr(config, name)!r}: {host} samples groups by itself, so it would have no "
            "effect; leave it out, or train with arrol"
        )


class HostAllocation:
    """An :class:`Allocator` for batches that the host has put together; ``history`` is fed by its owner."""

    def __init__(
        self, config: AllocationConfig, shape: StepShape, history: PromptHistory, *, seed: int, correction: str
    ) -> None:
        self._allocator = Allocator(
            config, shape, seed=seed, max_completion_tokens=0, history=history, correction=correction
        )
        self._rule, self._config, self._seed = self._allocator.rule, config, seed
        self._drawn: dict[str, int] = {}

    def lessons(self, groups: Sequence[RolloutGroup], totals: Sequence[np.ndarray], step: int) -> list[Lesson]:
        """See :meth:`Allocator.lessons`; the rollouts carry labels of 0 or 1, ``totals`` the rewards that train."""
        require_outcomes(self._config, groups, totals)
        self._allocator.account.clear()
        return self._allocator.lessons(groups, totals, step=step)

    def sizes(self, prompts: Sequence[tuple[str, int]], step: int, first: int) -> list[int]:
        """Rollouts of each ``(key, usual size)`` of a batch, 0 where it is passed over; ``first`` were drawn before."""
        chosen = self._chosen([key for key, _ in prompts], [self._seed, DRAW_STREAM, step, first])
        asked = {place: prompts[place][1] for place in chosen}
        if isinstance(self._rule, Knapsack):
            waves = self._rule.first_waves([self._allocator.believe(prompts[place][0]) for place in chosen])
            asked = dict(zip(chosen, waves.tolist(), strict=True))
        self._drawn = {"prompts_drawn": len(prompts), "rollouts_asked": sum(asked.values())}
        return [asked.get(place, 0) for place in range(len(prompts))]

    def learn(self, groups: Sequence[RolloutGroup]) -> None:
        """End of the batch: the rule updates what it remembers of the prompts."""
        self._rule.learn(groups, self._allocator.tally_of(groups))

    def save(self) -> State:
        """The rule's own memory; the owner of the history saves that."""
        return self._rule.save()

    def load(self, state: State) -> None:
        self._rule.load(state)

    def metrics(self) -> dict[str, float]:
        """Counts of the last batch."""
        counts = {**self._drawn, **self._allocator.account}
        return {f"allocation/{name}": float(count) for name, count in counts.items()} | self._rule.metrics()

    def _chosen(self, keys: Sequence[str], key: list[int]) -> list[int]:
        """Positions of the prompts to sample, in the order of the batch."""
        count = self._rule.shape.num_prompts
        prompts = [Prompt(name, (), str(place), "") for place, name in enumerate(keys)]
        if len(prompts) <= count or not isinstance(self._rule, (Mopps, Greso)):
            return list(range(len(prompts)))
        if isinstance(self._rule, Mopps):  # weighs all candidates against each other
            drawn = self._rule.draw(count, iter(prompts).__next__, self._allocator.believe, key)
        else:
            drawn, queue = [], deque(prompts)
            skipped: list[Prompt] = []

            def source() -> Prompt:
                if not queue:  # too few passed: the skipped prompts are drawn again
                    queue.extend(skipped)
                    skipped.clear()
                skipped.append(queue.popleft())
                return skipped[-1]

            for place in range(count):
                drawn += self._rule.draw(1, source, self._allocator.believe, [*key, place])
                skipped.pop()
        return sorted(int(prompt.text) for prompt in drawn)


def require_outcomes(config: AllocationConfig, groups: Sequence[RolloutGroup], totals: Sequence[np.ndarray]) -> None:
    """ConfigError for a graded reward under a posterior that gives advantages.

    A penalty that takes a right rollout's reward to 0 counts as graded.
    """
    for group, total_G in zip(groups, totals, strict=True) if uses_belief(config) else ():
        label_G = group.rewards_G
        is_outcome_G = np.isin(total_G, (0.0, 1.0)) & (np.isnan(label_G) | (total_G == label_G))
        graded = total_G[~np.isnan(total_G) & ~is_outcome_G]
        if len(graded):
            raise ConfigError(
                f"allocation.posterior.used_for = {config.posterior.used_for!r}: a rollout got reward {graded[0]:g}, "
                "and the posterior is of a success rate; let rewards add up to 0 or 1, or set 'nothing'"
            )
