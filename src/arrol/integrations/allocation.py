"""Allocation rules inside a host that samples whole groups by itself. Numpy only.

Of a rule such a host leaves what happens before a batch (which prompts, how often) or after its rewards (which rollouts
train, against which baseline). What it cannot do is refused by name: a rule, or a field that would have no effect.
Deviation: a rule that passes prompts over has the prompts of one batch to choose from, not the whole of the data.
Legend: ``G`` rollouts of a group, ``P`` prompts.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence

import numpy as np

from arrol.algorithms.allocation.allocator import RULES
from arrol.algorithms.allocation.prompts import DRAW_STREAM, Greso, Mopps
from arrol.algorithms.allocation.rule import Outcomes, StepShape, Tally
from arrol.algorithms.allocation.selection import SELECTION_STREAM
from arrol.algorithms.allocation.sizes import Knapsack
from arrol.algorithms.lesson import Lesson
from arrol.algorithms.posterior import Belief, prior_belief
from arrol.configs.allocation import AllocationConfig
from arrol.errors import ConfigError
from arrol.quality.buffer import PromptHistory, outcome_counts
from arrol.types import Prompt, RolloutGroup, State

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
        self._drawn: dict[str, int] = {}
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

    def sizes(self, prompts: Sequence[tuple[str, int]], step: int, first: int) -> list[int]:
        """Rollouts of each ``(key, usual size)`` of a batch, 0 where it is passed over; ``first`` were drawn before."""
        chosen = self._chosen([key for key, _ in prompts], [self._seed, DRAW_STREAM, step, first])
        asked = {place: prompts[place][1] for place in chosen}
        if isinstance(self.rule, Knapsack):
            waves = self.rule.first_waves([self._believe(prompts[place][0]) for place in chosen])
            asked = dict(zip(chosen, waves.tolist(), strict=True))
        self._drawn = {"prompts_drawn": len(prompts), "rollouts_asked": sum(asked.values())}
        return [asked.get(place, 0) for place in range(len(prompts))]

    def keep(self, reward_G: np.ndarray, step: int, number: int) -> np.ndarray:
        """bool ``[G]``: what trains of a group, by a rule that asks for nothing but rewards."""
        belief = Belief(self._config.posterior.prior_right, self._config.posterior.prior_wrong)
        selection = self.rule.select(Outcomes(reward_G, belief), [self._seed, SELECTION_STREAM, step, number])
        return selection.train_G

    def learn(self, groups: Sequence[RolloutGroup]) -> None:
        """The batch is over: what the rule itself remembers of its prompts."""
        rewards = [group.rewards_G for group in groups]
        asked_P = np.array([len(group.rollouts) for group in groups])
        verified_P = np.array([int((~np.isnan(reward_G)).sum()) for reward_G in rewards])
        right_P = np.array([int((reward_G > 0.5).sum()) for reward_G in rewards])
        tally = Tally(asked_P, asked_P, verified_P, right_P, np.ones_like(asked_P), right_P / np.maximum(verified_P, 1))
        self.rule.learn([group.prompt.key for group in groups], tally)

    def save(self) -> State:
        """The rule's own memory; the history is its owner's."""
        return self.rule.save()

    def load(self, state: State) -> None:
        self.rule.load(state)

    def metrics(self) -> dict[str, float]:
        """Of the last batch."""
        counts = {**self._drawn, **self._account}
        return {f"allocation/{name}": float(count) for name, count in counts.items()} | self.rule.metrics()

    def _chosen(self, keys: Sequence[str], key: list[int]) -> list[int]:
        """Places of the prompts that are asked, in the order of the batch."""
        count = self.rule.shape.num_prompts
        prompts = [Prompt(name, (), str(place), "") for place, name in enumerate(keys)]
        if len(prompts) <= count or not isinstance(self.rule, (Mopps, Greso)):
            return list(range(len(prompts)))
        if isinstance(self.rule, Mopps):  # weighs all candidates against each other
            drawn = self.rule.draw(count, iter(prompts).__next__, self._believe, key)
        else:
            drawn, queue = [], deque(prompts)
            skipped: list[Prompt] = []

            def source() -> Prompt:
                if not queue:  # too few were wanted: those that were skipped are asked again
                    queue.extend(skipped)
                    skipped.clear()
                skipped.append(queue.popleft())
                return skipped[-1]

            for place in range(count):
                drawn += self.rule.draw(1, source, self._believe, [*key, place])
                skipped.pop()
        return sorted(int(prompt.text) for prompt in drawn)

    def _believe(self, key: str) -> Belief:
        return prior_belief(self._config.posterior, self._history, key)

    def _belief(self, group: RolloutGroup) -> Belief:
        counts = outcome_counts(
            group.rollouts,
            use_quality=self._config.pruned_counts == "quality",
            count_truncated=self._config.count_truncated,
        )
        return self._believe(group.prompt.key).updated(*counts)

    def _require_outcomes(self, total_G: np.ndarray) -> None:
        graded = total_G[~np.isnan(total_G) & ~np.isin(total_G, (0.0, 1.0))]
        if len(graded):
            raise ConfigError(
                f"allocation.posterior.used_for = {self._config.posterior.used_for!r}: a rollout got reward "
                f"{graded[0]:g}, and the posterior is of a success rate; let rewards add up to 0 or 1, or set 'nothing'"
            )
