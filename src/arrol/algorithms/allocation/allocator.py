"""Drives a rule through the steps of a run: prompts and rollouts in, requests and lessons out.

Engine-agnostic: where requests are taken while others run, ``observe`` hears of rollouts as they end, elsewhere in
rounds. A wave starts only if it and all that run fit the ``token_budget`` at full length, so the budget holds.

Stopped rollouts have no outcome: rules count verified ones only, the posterior counts those with the weight
1/survival (:func:`arrol.quality.buffer.outcome_counts`).

Worked example (executed by the tests)::

    >>> from arrol.configs.allocation import AeroAllocation
    >>> shape = StepShape(num_prompts=2, group_size=8)
    >>> allocator = Allocator(AeroAllocation(), shape, seed=0, max_completion_tokens=16)
    >>> prompts = iter(Prompt(name, (5,), name, "7") for name in "ab")
    >>> [(r.group, r.first, r.size) for r in allocator.begin(1, lambda: next(prompts))]
    [(0, 0, 4), (1, 0, 4)]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from arrol.algorithms.allocation.aero import Aero
from arrol.algorithms.allocation.duet import Duet
from arrol.algorithms.allocation.prompts import DRAW_STREAM, DynamicSampling, Greso, Mopps
from arrol.algorithms.allocation.rule import AllocationRule, Outcomes, SingleWave, Source, StepShape, Tally
from arrol.algorithms.allocation.sara import Sara
from arrol.algorithms.allocation.selection import SELECTION_STREAM
from arrol.algorithms.allocation.sizes import Knapsack, Neyman, PilotCommit, ReinforceAda
from arrol.algorithms.allocation.subsets import Subset
from arrol.algorithms.lesson import Lesson
from arrol.algorithms.posterior import Belief, prior_belief
from arrol.configs.allocation import AllocationBase, AllocationConfig
from arrol.errors import ConfigError
from arrol.quality.buffer import PromptHistory, outcome_counts
from arrol.types import FinishReason, GroupRequest, Prompt, Rollout, RolloutGroup, RolloutId, State

RULES: dict[str, type[AllocationRule[Any]]] = {
    "uniform": SingleWave,
    "aero": Aero,
    "dapo": DynamicSampling,
    "greso": Greso,
    "reinforce_ada": ReinforceAda,
    "pilot_commit": PilotCommit,
    "knapsack": Knapsack,
    "neyman": Neyman,
    "duet": Duet,
    "sara": Sara,
    "pods": Subset,
    "cppo": Subset,
    "mopps": Mopps,
}


@dataclass
class _Open:
    """A prompt of the step."""

    prompt: Prompt
    prior: Belief
    asked: int = 0
    waves: int = 0
    ended: int = 0
    verified: int = 0
    right: int = 0
    explored: tuple[int, int] = (0, 0)
    """Right and verified when its first wave had ended."""
    rollouts: list[Rollout] = field(default_factory=list)
    mean: float = 0.5


def uses_belief(config: AllocationBase) -> bool:
    """Advantages come from the posterior."""
    return config.posterior.used_for in ("advantage", "both")


class Allocator:
    """One per run; ``begin``, ``observe`` until nothing more is asked, ``lessons``, ``learn`` once per step."""

    def __init__(
        self,
        config: AllocationConfig,
        shape: StepShape,
        *,
        seed: int,
        max_completion_tokens: int,
        history: PromptHistory | None = None,
        correction: str = "plain",
    ) -> None:
        """``history``: counts per prompt that their owner feeds; None for counts of the allocator's own.

        ``correction``: that of the advantages; under another one than ``plain`` survivors weigh for stopped siblings.
        """
        self.rule, self._name = RULES[config.rule](config, shape), config.rule
        self._config: AllocationBase = config
        self._history = PromptHistory(config.posterior.discount) if history is None else history
        self._shape, self._seed, self._longest = shape, seed, max_completion_tokens
        self._is_weighted = correction != "plain"
        self._step = 0
        self._source: Source
        self._open: list[_Open] = []
        self._tokens = 0
        self.account: Counter[str] = Counter()
        """Counts of the step, for the log."""

    def begin(self, step: int, source: Source) -> list[GroupRequest]:
        """The first waves of a step; ``source`` gives the next prompt of the data and is kept until the next step."""
        self._step, self._source, self._open, self._tokens = step, source, [], 0
        self.account.clear()
        return self._draw(self._shape.num_prompts)

    def observe(self, rollouts: Sequence[Rollout]) -> list[GroupRequest]:
        """Rollouts that have ended; their rewards are None where nothing was verified. What to sample next."""
        touched = set()
        for rollout in rollouts:
            group = self._open[rollout.rollout_id.group]
            group.rollouts.append(rollout)
            group.ended += 1
            self._tokens += rollout.completion.num_tokens
            if self._counts(rollout):
                group.verified += 1
                group.right += rollout.outcome == 1.0
            touched.add(rollout.rollout_id.group)
        for number in touched:
            group = self._open[number]
            group.mean = self._belief(group.prior, group.rollouts).mean
            if group.waves == 1 and group.ended == group.asked:
                group.explored = group.right, group.verified
        if self.rule.is_single_wave:
            return []
        tally = self.tally()
        waves, prunes_P = self.rule.next_waves(tally), self.rule.may_prune(tally)
        requests = [self._ask(int(p), int(size), prune=bool(prunes_P[p])) for p, size in waves.T]
        wanted = self.rule.wanted_prompts(self.tally())
        return [request for request in requests if request] + self._draw(wanted)

    def is_due(self, ended: Sequence[RolloutId]) -> bool:
        """True when the outcomes of these rollouts may lead to a request; until then they may be observed later.

        Rules act when all rollouts of a prompt have ended; under a token budget every end frees tokens.
        """
        if self.rule.is_single_wave:
            return False
        count = Counter(rollout_id.group for rollout_id in ended)
        completes = any(self._open[g].ended + n == self._open[g].asked for g, n in count.items())
        return completes or bool(self._config.token_budget) or self.rule.waits_for_running(self.tally())

    def prompt(self, group: int) -> Prompt:
        """What a group of this step was asked."""
        return self._open[group].prompt

    def groups(self) -> list[RolloutGroup]:
        """All rollouts of the step that have ended, by group and index."""
        return [RolloutGroup(group.prompt, sorted(group.rollouts, key=lambda r: r.rollout_id)) for group in self._open]

    def tally(self) -> Tally:
        """Where the step stands."""
        rows = [(g.asked, g.ended, g.verified, g.right, g.waves) for g in self._open]
        asked_P, ended_P, verified_P, right_P, waves_P = np.array(rows, np.int64).reshape(-1, 5).T
        return Tally(asked_P, ended_P, verified_P, right_P, waves_P, np.array([g.mean for g in self._open]))

    def tally_of(self, groups: Sequence[RolloutGroup]) -> Tally:
        """Counts of groups that were each asked in one wave and have ended."""
        size_P = np.array([len(group.rollouts) for group in groups])
        counted = [[r.outcome for r in group.rollouts if self._counts(r)] for group in groups]
        verified_P = np.array([len(outcomes) for outcomes in counted])
        right_P = np.array([sum(outcome == 1.0 for outcome in outcomes) for outcomes in counted])
        return Tally(size_P, size_P, verified_P, right_P, np.ones_like(size_P), right_P / np.maximum(verified_P, 1))

    def lessons(
        self, groups: Sequence[RolloutGroup], totals: Sequence[np.ndarray] | None = None, *, step: int | None = None
    ) -> list[Lesson]:
        """What each group of a step teaches, all its rollouts have ended; before the history learns of them.

        Rules that act on outcomes read those of the rollouts. The others, which choose by the size of a reward,
        read ``totals``: float64 ``[G]`` per group, the rewards that train (shaped, or summed over functions), NaN where
        there is none; None: the same rewards. ``step`` keys random choices; None: the step that ``begin`` opened.
        """
        found = []
        for number, group in enumerate(groups):
            belief = self._belief(self.believe(group.prompt.key), group.rollouts)
            ignored_G = self._ignored(group)
            total_G = group.rewards_G if totals is None else totals[number]
            known_G = ~np.isnan(total_G) & ~ignored_G
            reward_G = np.where(known_G, group.outcomes_G if self.rule.needs_binary else total_G, np.nan)
            key = [self._seed, SELECTION_STREAM, self._step if step is None else step, number]
            is_weighted = self._is_weighted and bool((group.survival_G < 1).any())
            selection = self.rule.select(Outcomes(reward_G, belief, is_weighted), key)
            lesson = Lesson(selection, belief if uses_belief(self._config) else None, ignored_G)
            found.append(lesson)
            self.account["prompts_trained"] += bool((selection.train_G & known_G).any())
            for rollout, reason, known in zip(group.rollouts, lesson.left_out_G, known_G | ignored_G, strict=True):
                if reason and known and rollout.survived:
                    self.account[f"dropped/{reason}"] += 1
                    self.account["tokens_dropped"] += rollout.completion.num_tokens
        return found

    def learn(self, groups: Sequence[RolloutGroup]) -> None:
        """The step is over: counts per prompt, and what the rule learns."""
        self._history.learn(
            groups,
            use_quality=self._config.pruned_counts == "quality",
            count_truncated=self._config.count_truncated,
        )
        self.rule.learn(groups, self.tally())

    def save(self) -> State:
        """The rule's own memory, and counts per prompt."""
        return {"rule": self.rule.save(), "history": self._history.save()}

    def load(self, state: State) -> None:
        self.rule.load(cast(State, state["rule"]))
        self._history.load(cast(State, state["history"]))

    def metrics(self) -> dict[str, float]:
        """What was drawn, asked and dropped in the step."""
        tally = self.tally()
        explored = np.array([g.explored for g in self._open], np.int64).reshape(-1, 2).T
        for when, counts in (("before", explored), ("after", (tally.right_P, tally.verified_P))):
            for name, count in self.rule.strata(*counts).items():
                self.account[f"stratum_{when}/{name}"] = count
        asked = int(tally.asked_P.sum())
        values = {
            "rollout/per_prompt": asked / max(len(self._open), 1),
            "allocation/prompts_drawn": float(len(self._open)),
            "allocation/rollouts_asked": float(asked),
            "allocation/waves/mean": float(tally.waves_P.mean()) if len(self._open) else 0.0,
            **{f"allocation/{name}": float(count) for name, count in self.account.items()},
        }
        return values | self.rule.metrics()

    def _draw(self, count: int) -> list[GroupRequest]:
        """More prompts, each with its first wave; fewer where the tokens do not allow them."""
        first = len(self._open)
        if self._config.token_budget:
            count = min(count, self._room() // self.rule.first_size)
        if not count:
            return []
        key = [self._seed, DRAW_STREAM, self._step, first]
        prompts = self.rule.draw(count, self._source, self.believe, key)
        beliefs = [self.believe(prompt.key) for prompt in prompts]
        for prompt, belief in zip(prompts, beliefs, strict=True):
            self._open.append(_Open(prompt, belief, mean=belief.mean))
        sizes = self.rule.first_waves(beliefs)
        requests = [self._ask(first + place, int(size), prune=True) for place, size in enumerate(sizes)]
        return [request for request in requests if request]

    def _ask(self, number: int, size: int, *, prune: bool) -> GroupRequest | None:
        """A wave, cut to what the tokens allow."""
        group = self._open[number]
        if self._config.token_budget:
            size = min(size, self._room())
        if size <= 0:
            return None
        rate = self._history.success_rate(group.prompt.key)
        request = GroupRequest(self._step, number, group.prompt, size, rate, first=group.asked, prune=prune)
        group.asked += size
        group.waves += 1
        return request

    def _room(self) -> int:
        """Rollouts that the tokens allow in addition to the running ones, each at full length."""
        running = sum(group.asked - group.ended for group in self._open)
        return (self._config.token_budget - self._tokens) // self._longest - running

    def _counts(self, rollout: Rollout) -> bool:
        """The rollout says whether the prompt was solved."""
        outcome, posterior = rollout.outcome, self._config.posterior
        if rollout.reward is None or outcome is None:
            return False
        if (self.rule.needs_binary or posterior.used_for != "nothing") and outcome not in (0.0, 1.0):
            raise ConfigError(
                f"allocation.rule = {self._name!r}: a verifier gave reward {outcome:g}, and a shaped reward "
                "lets groups through that failed; let it answer 0 or 1, or use uniform, pods or cppo without a "
                "posterior"
            )
        if uses_belief(self._config) and rollout.reward not in (0.0, 1.0):
            raise ConfigError(
                f"allocation.posterior.used_for = {posterior.used_for!r}: a rollout has reward {rollout.reward:g}, "
                "and the posterior is of a success rate; set it to 'allocation', or reward with 0 and 1"
            )
        return self._config.count_truncated or not rollout.is_truncated

    def believe(self, key: str) -> Belief:
        """What earlier visits say of a prompt's success rate."""
        return prior_belief(self._config.posterior, self._history, key)

    def _ignored(self, group: RolloutGroup) -> np.ndarray:
        """bool ``[G]``: rollouts that failed, and truncated ones where these do not count."""
        ignored = [
            r.completion.finish_reason is FinishReason.ERROR or (r.is_truncated and not self._config.count_truncated)
            for r in group.rollouts
        ]
        return np.array(ignored, bool)

    def _belief(self, prior: Belief, rollouts: Sequence[Rollout]) -> Belief:
        """Sums in the order of the ids: rounding must not tell in which order rollouts ended."""
        counts = outcome_counts(
            sorted(rollouts, key=lambda r: r.rollout_id),
            use_quality=self._config.pruned_counts == "quality",
            count_truncated=self._config.count_truncated,
        )
        return prior.updated(*counts)
