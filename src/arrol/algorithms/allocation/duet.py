"""DUET, arXiv 2605.08441: rollouts where a prompt's gradient estimate is most uncertain for its cost.

    n_q = s_q / sqrt(lambda L_q),    lambda so that the sizes fill the step

s_q is the spread of A x (sum of log pi) over the rollouts of the prompt's earlier visits, L_q their mean length; a
prompt that is new counts as the mean of the others. Weights as in ``neyman`` give every prompt the same share of the
gradient, so the objective stays that of equal groups.

Deviations: (1) A is the reward minus its group's mean, not divided by a spread; (2) earlier visits are discounted by
``posterior.discount``; (3) sizes lie in [least, max_group]. The paper's stop is a pruning rule; ``arrol lab --peers``
has what a pool can say of it. Legend: ``P`` prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from arrol.algorithms.allocation.rule import AllocationRule, Believe, Outcomes, Source, StepShape, Tally
from arrol.algorithms.allocation.selection import Selection
from arrol.algorithms.allocation.sizes import equal_share, neyman_sizes
from arrol.algorithms.posterior import Belief
from arrol.configs.allocation import DuetAllocation
from arrol.types import Prompt, RolloutGroup, State

TINY = 1e-12
"""In place of a spread of 0."""


class Duet(AllocationRule[DuetAllocation]):
    """All rollouts in one wave, sizes by what earlier visits showed."""

    needs_binary = False
    is_single_wave = True

    def __init__(self, config: DuetAllocation, shape: StepShape) -> None:
        super().__init__(config, shape)
        self._sums: dict[str, np.ndarray] = {}
        """Prompt -> discounted sums over its rollouts: their number, x, x^2, length; x = A x sum of log pi."""
        self._drawn: list[str] = []

    @property
    def first_size(self) -> int:
        return self.config.least

    def draw(self, count: int, source: Source, believe: Believe, key: Sequence[int]) -> list[Prompt]:
        prompts = super().draw(count, source, believe, key)
        self._drawn = [prompt.key for prompt in prompts]
        return prompts

    def first_waves(self, belief_P: Sequence[Belief]) -> np.ndarray:
        known = {key: worth(self._sums[key]) for key in self._drawn if key in self._sums}
        mean = float(np.mean(list(known.values()))) if known else 1.0
        worth_P = np.array([known.get(key, mean) for key in self._drawn])
        most = self.config.max_group or 4 * self.shape.group_size
        budget = self.shape.group_size * len(belief_P)
        return neyman_sizes(np.maximum(worth_P, TINY), budget, least=self.config.least, most=most, beyond=0)

    def select(self, outcomes: Outcomes, key: Sequence[int]) -> Selection:
        return equal_share(len(outcomes.reward_G), self.shape.group_size)

    def learn(self, groups: Sequence[RolloutGroup], tally: Tally) -> None:
        for group in groups:
            rows = [rollout for rollout in group.rollouts if rollout.reward is not None]
            if not rows:
                continue
            weight_C = np.array([1 / rollout.survival for rollout in rows])
            reward_C = np.array([rollout.reward for rollout in rows], float)
            logprob_C = np.array([float(np.sum(rollout.completion.sampler_logprobs_T)) for rollout in rows])
            length_C = np.array([rollout.completion.num_tokens for rollout in rows], float)
            x_C = (reward_C - np.average(reward_C, weights=weight_C)) * logprob_C
            sums = np.array([np.ones_like(x_C), x_C, x_C**2, length_C]) @ weight_C
            before = self._sums.get(group.prompt.key, np.zeros(4))
            self._sums[group.prompt.key] = self.config.posterior.discount * before + sums

    def save(self) -> State:
        return {"sums": {key: sums.tolist() for key, sums in self._sums.items()}}

    def load(self, state: State) -> None:
        self._sums = {key: np.array(sums) for key, sums in cast(dict[str, list[float]], state["sums"]).items()}


def worth(sums: np.ndarray) -> float:
    """s / sqrt(L) of one prompt."""
    count, x, squared, length = sums
    return float(np.sqrt(max(squared / count - (x / count) ** 2, 0.0) / max(length / count, 1.0)))
