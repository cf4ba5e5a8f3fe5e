"""The interface of every allocation rule: counts in; prompts, waves and the rollouts that train out.

A step in words: the rule draws prompts and gives each a first wave of rollouts; whenever rollouts of a prompt have all
ended, it may ask for another wave of that prompt or for more prompts; when nothing runs and nothing is asked, it says
what trains. Rules see counts, never text, and act on a binary outcome, never on a shaped reward. They are arithmetic on
arrays: a million rollouts can be simulated in a second without a model.

Legend: ``P`` prompts of the step, ``N`` waves, ``G`` rollouts of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from arrol.algorithms.allocation.selection import Selection, whole
from arrol.algorithms.posterior import Belief
from arrol.configs.allocation import AllocationBase
from arrol.types import Prompt, RolloutGroup, State

Source = Callable[[], Prompt]
"""The next prompt of the data."""
Believe = Callable[[str], Belief]
"""Key of a prompt -> what earlier visits say of it."""
MAX_SKIPS = 1000
"""Prompts skipped in a row before one is asked all the same: all prompts of a finite pool may be solved."""
NO_WAVES = np.zeros((2, 0), np.int64)
Config = TypeVar("Config", bound=AllocationBase)


class StepShape(NamedTuple):
    """Sizes of a step that belong to training."""

    num_prompts: int
    group_size: int

    @property
    def num_rollouts(self) -> int:
        return self.num_prompts * self.group_size


@dataclass(frozen=True)
class Tally:
    """Counts of this step, by prompt in the order they were drawn."""

    asked_P: np.ndarray
    """int: rollouts asked for."""
    ended_P: np.ndarray
    """int: of them ended, stopped or failed."""
    verified_P: np.ndarray
    """int: of them judged."""
    right_P: np.ndarray
    """int: of them right."""
    waves_P: np.ndarray
    """int: waves asked for."""
    mean_P: np.ndarray
    """float: posterior mean of the success rate, earlier visits and weights included."""

    @property
    def is_idle_P(self) -> np.ndarray:
        """Nothing of it runs."""
        return self.ended_P >= self.asked_P

    @property
    def is_mixed_P(self) -> np.ndarray:
        """Some verified rollouts are right and some wrong."""
        return (self.right_P > 0) & (self.right_P < self.verified_P)


@dataclass(frozen=True)
class Outcomes:
    """One group when its sampling is over."""

    reward_G: np.ndarray
    """float64; NaN where nothing was verified."""
    belief: Belief
    """Belief about its success rate, after this visit."""
    is_weighted: bool = False
    """Rollouts were drawn, and survivors weigh for stopped ones: the signal is right on average over the draws."""

    @property
    def right_G(self) -> np.ndarray:
        return self.reward_G > 0.5

    @property
    def wrong_G(self) -> np.ndarray:
        return self.reward_G <= 0.5

    @property
    def is_uniform(self) -> bool:
        """All right or all wrong, or nothing verified."""
        return not (self.right_G.any() and self.wrong_G.any())

    @property
    def is_dead(self) -> bool:
        """Uniform, and known as a whole: to drop a group for the outcome of its draw is a bias."""
        return self.is_uniform and not (self.is_weighted and (self.right_G.any() or self.wrong_G.any()))


def first_accepted(source: Source, accepts: Callable[[Prompt], bool]) -> Prompt:
    """The next prompt that is accepted; the last one where MAX_SKIPS in a row are not."""
    for _ in range(MAX_SKIPS):
        prompt = source()
        if accepts(prompt):
            break
    return prompt


class AllocationRule(Generic[Config]):
    """Every prompt once, ``group_size`` rollouts, all train. Subclasses override what differs."""

    needs_binary = True
    """Rewards must be 0 or 1."""
    is_single_wave = False
    """No wave follows the first, so outcomes may be judged when all rollouts have ended."""

    def __init__(self, config: Config, shape: StepShape) -> None:
        self.config, self.shape = config, shape

    @property
    def first_size(self) -> int:
        """Rollouts of the smallest first wave."""
        return self.shape.group_size

    def draw(self, count: int, source: Source, believe: Believe, key: Sequence[int]) -> list[Prompt]:
        """``count`` prompts worth asking."""
        return [source() for _ in range(count)]

    def first_waves(self, belief_P: Sequence[Belief]) -> np.ndarray:
        """int ``[P]``: rollouts of the prompts just drawn."""
        return np.full(len(belief_P), self.first_size)

    def next_waves(self, tally: Tally) -> np.ndarray:
        """int ``[2, N]``: prompts and sizes, the most urgent first; only idle prompts, each once."""
        return NO_WAVES

    def may_prune(self, tally: Tally) -> np.ndarray:
        """bool ``[P]``: whether rollouts of a later wave may be stopped."""
        return np.ones(len(tally.asked_P), bool)

    def waits_for_running(self, tally: Tally) -> bool:
        """An outcome of a prompt whose rollouts still run may lead to a request for another prompt."""
        return False

    def wanted_prompts(self, tally: Tally) -> int:
        """How many prompts more to draw now."""
        return 0

    def select(self, outcomes: Outcomes, key: Sequence[int]) -> Selection:
        """What trains of a group; ``key`` starts its random choices."""
        return whole(len(outcomes.reward_G))

    def learn(self, groups: Sequence[RolloutGroup], tally: Tally) -> None:
        """The step is over."""

    def strata(self, right_P: np.ndarray, verified_P: np.ndarray) -> dict[str, int]:
        """Number of prompts per stratum, for the log."""
        return {}

    def save(self) -> State:
        return {}

    def load(self, state: State) -> None:
        """Nothing is remembered."""

    def metrics(self) -> dict[str, float]:
        """What the rule itself has learnt."""
        return {}


class SingleWave(AllocationRule[Config]):
    """Uniform as it stands (GRPO): whole groups in one wave, graded rewards allowed."""

    needs_binary = False
    is_single_wave = True
