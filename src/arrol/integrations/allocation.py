"""Allocation rules inside a host that samples whole groups by itself. Numpy only.

Of a rule such a host leaves what happens before a batch (which prompts) or after its rewards (which rollouts train,
against which baseline). What it cannot do is refused by name: a rule, or a field that would have no effect.
Legend: ``G`` rollouts of a group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from arrol.algorithms.allocation.allocator import RULES
from arrol.algorithms.allocation.rule import Outcomes, StepShape
from arrol.algorithms.allocation.selection import SELECTION_STREAM
from arrol.algorithms.lesson import Lesson
from arrol.algorithms.posterior import Belief, prior_belief
from arrol.configs.allocation import AllocationConfig
from arrol.errors import ConfigError
from arrol.quality.buffer import PromptHistory, outcome_counts
from arrol.types import RolloutGroup

SHARED_FIELDS = frozenset({"rule", "posterior", "pruned_counts", "count_truncated"})
"""Fields that have their effect in every host."""


def uses_belief(config: AllocationConfig) -> bool:
    """Advantages come from the posterior."""
    return config.posterior.used_for in ("advantage", "both")


def acts(config: AllocationConfig) -> bool:
    """Something differs from groups that train whole."""
    return config.rule != "uniform" or uses_belief(config)


def refuse_unused(
    config: AllocationConfig, used: Mapping[str, frozenset[str]], reasons: Mapping[str, str], host: str
) -> None:
    """ConfigError for a rule that is not among ``used`` (its reason is told), or a field that is set in vain."""
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
    """One rule of one run; ``history`` is fed by whoever owns it."""

    def __init__(self, config: AllocationConfig, shape: StepShape, history: PromptHistory, *, seed: int) -> None:
        self.rule = RULES[config.rule](config, shape)
        self._config, self._history, self._seed = config, history, seed
        self._account: Counter[str] = Counter()

    def lessons(self, groups: Sequence[RolloutGroup], totals: Sequence[np.ndarray], step: int) -> list[Lesson]:
        """What each group teaches, before the history hears of it.

        Rollouts carry labels of 0 or 1, ``totals`` (float64 ``[G]``, NaN where there is none) the rewards that train.
        Rules that judge outcomes see the labels, the others the totals.
        """
        self._account.clear()
        found = []
        for number, (group, total_G) in enumerate(zip(groups, totals, strict=True)):
            belief = self._belief(group)
            if uses_belief(self._config):
                self._require_outcomes(total_G)
            known_G = ~np.isnan(total_G)
            reward_G = np.where(known_G, group.rewards_G if self.rule.needs_binary else total_G, np.nan)
            key = [self._seed, SELECTION_STREAM, step, number]
            selection = self.rule.select(Outcomes(reward_G, belief), key)
            found.append(Lesson(selection, belief if uses_belief(self._config) else None))
            left_out_G = known_G & ~selection.train_G
            if left_out_G.any():
                self._account[f"dropped/{selection.reason}"] += int(left_out_G.sum())
            tokens = [r.completion.num_tokens for r, out in zip(group.rollouts, left_out_G, strict=True) if out]
            self._account["tokens_dropped"] += sum(tokens)
            self._account["prompts_trained"] += bool((selection.train_G & known_G).any())
        return found

    def metrics(self) -> dict[str, float]:
        """Of the last batch."""
        return {f"allocation/{name}": float(count) for name, count in self._account.items()} | self.rule.metrics()

    def _belief(self, group: RolloutGroup) -> Belief:
        counts = outcome_counts(
            group.rollouts,
            use_quality=self._config.pruned_counts == "quality",
            count_truncated=self._config.count_truncated,
        )
        return prior_belief(self._config.posterior, self._history, group.prompt.key).updated(*counts)

    def _require_outcomes(self, total_G: np.ndarray) -> None:
        graded = total_G[~np.isnan(total_G) & ~np.isin(total_G, (0.0, 1.0))]
        if len(graded):
            raise ConfigError(
                f"allocation.posterior.used_for = {self._config.posterior.used_for!r}: a rollout got reward "
                f"{graded[0]:g}, and the posterior is of a success rate; let rewards add up to 0 or 1, or set 'nothing'"
            )
