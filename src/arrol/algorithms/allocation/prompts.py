"""Which prompts are asked: DAPO's dynamic sampling, GRESO's skipping, MoPPS's choice.

* ``dapo``   arXiv 2503.14476. Uniform groups are dropped and other prompts drawn until ``num_prompts`` groups are mixed
             or ``max_draws`` is reached. Deviations: (1) only what is missing is drawn, as soon as a group is known to
             be uniform, not another batch; (2) at the cap the step goes on with what it has, unless told to fail;
             (3) behind draws with weights, a group whose survivors are alike trains all the same, as one too many.
* ``greso``  arXiv 2506.02177. A prompt whose last z visits were all uniform is skipped with probability
             1 - max(repeat^z, 0.01); repeat is kept for all-right and all-wrong visits apart, moves by ``repeat_step``
             to hold the share of uniform groups, in [0.05, 0.95]. Then as ``dapo``. Deviation: uniform means all right
             or all wrong, not a mean reward beyond 0.98 or below 0.11.
* ``mopps``  arXiv 2507.04632. Draws ``candidates`` times as many prompts and takes the prompts whose
             rate, drawn from the posterior, is nearest to ``target_rate``.

Legend: ``P`` prompts, ``C`` candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

import numpy as np

from arrol.algorithms.allocation.rule import AllocationRule, Believe, Outcomes, Source, StepShape, Tally, first_accepted
from arrol.algorithms.allocation.selection import Selection, empty, whole
from arrol.algorithms.posterior import Belief
from arrol.configs.allocation import DapoAllocation, GresoAllocation, MoppsAllocation
from arrol.errors import ConfigError
from arrol.types import Prompt, RolloutGroup, State

Dapo = TypeVar("Dapo", bound=DapoAllocation)
DRAW_STREAM = 5
"""Second word of the key of every choice of prompts."""
LEAST_REPEAT, LOWEST_REPEAT, HIGHEST_REPEAT, EASY_SHARE = 0.01, 0.05, 0.95, 1 / 3
"""GRESO's constants: least chance of a visit, range of what adapts, share of the uniform target that is all-right."""


class DynamicSampling(AllocationRule[Dapo]):
    """DAPO's dynamic sampling."""

    def wanted_prompts(self, tally: Tally) -> int:
        useful = int(self._is_useful(tally).sum())
        missing = self.shape.num_prompts - useful - self._num_open(tally)
        allowed = int(self.config.max_draws * self.shape.num_prompts) - len(tally.asked_P)
        if allowed < missing and self.config.at_cap == "error" and tally.is_idle_P.all():
            raise ConfigError(
                f"allocation.max_draws = {self.config.max_draws:g}: {len(tally.asked_P)} prompts drawn, {useful} of "
                f"{self.shape.num_prompts} groups are mixed; raise it, choose other prompts, or set "
                "allocation.at_cap = 'train'"
            )
        return max(0, min(missing, allowed))

    def select(self, outcomes: Outcomes, key: Sequence[int]) -> Selection:
        count = len(outcomes.reward_G)
        return empty(count, "uniform") if outcomes.is_dead else whole(count)

    def _is_useful(self, tally: Tally) -> np.ndarray:
        """bool ``[P]``: counts as one of the groups that a step wants."""
        return tally.is_idle_P & tally.is_mixed_P

    def _num_open(self, tally: Tally) -> int:
        """Prompts that may still turn out useful."""
        return int((~tally.is_idle_P).sum())


def repeat_probability(repeat: float, visits: int) -> float:
    """Chance that a prompt is asked again after so many uniform visits in a row."""
    return max(repeat**visits, LEAST_REPEAT)


class Greso(DynamicSampling[GresoAllocation]):
    """GRESO: prompts are skipped, then sampled as by DAPO."""

    def __init__(self, config: GresoAllocation, shape: StepShape) -> None:
        super().__init__(config, shape)
        self._repeat = {"easy": config.easy_repeat, "hard": config.hard_repeat}
        self._streaks: dict[str, tuple[str, int]] = {}
        """Prompt -> kind and number of its latest uniform visits in a row."""
        self._skipped = 0

    def draw(self, count: int, source: Source, believe: Believe, key: Sequence[int]) -> list[Prompt]:
        rng = np.random.default_rng(list(key))

        def accepts(prompt: Prompt) -> bool:
            kind, visits = self._streaks.get(prompt.key, ("easy", 0))
            is_asked = bool(rng.random() < repeat_probability(self._repeat[kind], visits))
            self._skipped += not is_asked
            return is_asked

        return [first_accepted(source, accepts) for _ in range(count)]

    def learn(self, groups: Sequence[RolloutGroup], tally: Tally) -> None:
        solved_P = (tally.verified_P > 0) & (tally.right_P == tally.verified_P)
        failed_P = (tally.verified_P > 0) & (tally.right_P == 0)
        for number, group in enumerate(groups):
            name = group.prompt.key
            if not tally.verified_P[number]:
                continue
            kind = "easy" if solved_P[number] else "hard" if failed_P[number] else ""
            before, visits = self._streaks.pop(name, (kind, 0))
            if kind:
                self._streaks[name] = (kind, visits + 1 if before == kind else 1)
        target = self.config.target_uniform
        self._adapt("easy", float(solved_P.mean()), target * EASY_SHARE)
        self._adapt("hard", float(failed_P.mean()), target * (1 - EASY_SHARE))

    def _adapt(self, kind: str, share: float, target: float) -> None:
        """More uniform groups than wanted: ask such prompts less often."""
        move = self.config.repeat_step * (1 if share < target else -1)
        self._repeat[kind] = float(np.clip(self._repeat[kind] + move, LOWEST_REPEAT, HIGHEST_REPEAT))

    def save(self) -> State:
        return {"repeat": dict(self._repeat), "streaks": {name: list(streak) for name, streak in self._streaks.items()}}

    def load(self, state: State) -> None:
        self._repeat = dict(cast(dict[str, float], state["repeat"]))
        streaks = cast(dict[str, list], state["streaks"])
        self._streaks = {name: (str(kind), int(visits)) for name, (kind, visits) in streaks.items()}

    def metrics(self) -> dict[str, float]:
        skipped, self._skipped = self._skipped, 0
        return {
            "allocation/prompts_skipped": float(skipped),
            "allocation/easy_repeat": self._repeat["easy"],
            "allocation/hard_repeat": self._repeat["hard"],
        }


def nearest_to_target(belief_C: Sequence[Belief], count: int, target: float, key: Sequence[int]) -> np.ndarray:
    """Candidates whose rate, drawn from Beta(right, wrong), is nearest to the target; in the order of the data."""
    rng = np.random.default_rng(list(key))
    rate_C = rng.beta([b.right for b in belief_C], [b.wrong for b in belief_C])
    return np.sort(np.argsort(np.abs(rate_C - target), kind="stable")[:count])


class Mopps(AllocationRule[MoppsAllocation]):
    """MoPPS's choice; group sizes and training are GRPO's."""

    is_single_wave = True

    def draw(self, count: int, source: Source, believe: Believe, key: Sequence[int]) -> list[Prompt]:
        drawn = [source() for _ in range(count * self.config.candidates)]
        distinct = list({prompt.key: prompt for prompt in drawn}.values())
        candidates = distinct if len(distinct) >= count else drawn  # a small pool comes round
        beliefs = [believe(prompt.key) for prompt in candidates]
        return [candidates[i] for i in nearest_to_target(beliefs, count, self.config.target_rate, key)]
