"""What a host's first batches tell: the probe, and whether ``success_threshold`` divides the rewards. Numpy only.

Without ``probe_tokens`` the first batches are neither scored nor stopped. Once enough lengths are known, the probe is
half of the median length: more than half of the rollouts reach it, and a stop there saves half of a typical rollout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np

from arrol.configs.host import HostConfig
from arrol.types import FinishReason, RolloutGroup, State

ENOUGH = 64
"""Completions behind a probe, unless a quarter of the warm-up has passed; rewards behind the warning."""
LATEST_PROBE = 512


class ChosenProbe(NamedTuple):
    """A probe and what it was chosen from."""

    tokens: int
    median: float
    completions: int

    def __str__(self) -> str:
        return (
            f"probe_tokens = [{self.tokens}]: half of the median length of the first {self.completions} completions "
            f"({self.median:g} tokens), at most {LATEST_PROBE}"
        )


class Warmup:
    """Lengths and rewards of the first batches; saved with the head. Batches count from 1."""

    def __init__(self, config: HostConfig) -> None:
        self._steps, self._threshold = config.pruning.warmup_steps, config.success_threshold
        self._has_probes = config.pruning.has_probes
        self._lengths: list[int] = []
        self._rewards = {"count": 0.0, "lowest": np.inf, "highest": -np.inf}
        self._is_judged = False

    def add_lengths(self, groups: Iterable[RolloutGroup]) -> None:
        """Add the lengths of a batch in which nothing could be stopped."""
        completions = (rollout.completion for group in groups for rollout in group.rollouts)
        self._lengths += [each.num_tokens for each in completions if each.finish_reason is not FinishReason.ERROR]

    def probe(self, step: int) -> ChosenProbe | None:
        """The probe after batch ``step``; None before enough lengths are known.

        Enough are 64, or those of a quarter of the warm-up. It lies below the length limit, as no median is above that.
        """
        count = len(self._lengths)
        if not count or (count < ENOUGH and 4 * step < self._steps):
            return None
        median = float(np.median(self._lengths))
        return ChosenProbe(max(1, min(LATEST_PROBE, int(median / 2))), median, count)

    def label_warning(self, rewards: np.ndarray, step: int, name: str = "") -> str | None:
        """Add the rewards of batch ``step``; once, after the warm-up, a line when the threshold does not divide them.

        NaN is a rollout without a reward; ``name`` is the reward function. The line needs 64 rewards, and a rule with
        probes.
        """
        known, seen, threshold = rewards[~np.isnan(rewards)], self._rewards, self._threshold
        if self._is_judged or not self._has_probes or not len(known):
            return None
        lowest, highest = min(seen["lowest"], float(known.min())), max(seen["highest"], float(known.max()))
        self._rewards = {"count": seen["count"] + len(known), "lowest": lowest, "highest": highest}
        self._is_judged = step >= self._steps and self._rewards["count"] >= ENOUGH
        if not self._is_judged or lowest <= threshold < highest:
            return None
        share, prompts = ("each", "harder") if lowest > threshold else ("none", "easier")
        rewards_of = f"{self._rewards['count']:g} rewards" + (f" of {name!r}" if name else "")
        return (
            f"success_threshold = {threshold:g}: {share} of the {rewards_of} so far ({lowest:g} to {highest:g}) is "
            "above it, so the head has learned nothing; set it between the rewards of wrong and of right answers, or "
            f"use {prompts} prompts"
        )

    def save(self) -> State:
        return {"lengths": list(self._lengths), "rewards": dict(self._rewards), "is_judged": self._is_judged}

    def load(self, state: State) -> None:
        self._lengths = list(cast(Sequence[int], state["lengths"]))
        self._rewards = dict(cast(Mapping[str, float], state["rewards"]))
        self._is_judged = bool(state["is_judged"])


def without_probes(config: HostConfig) -> HostConfig:
    """The same options with no probe yet, where the rule has one: the first batches choose it."""
    return with_probes(config, ()) if config.pruning.has_probes else config


def with_probes(config: HostConfig, probe_tokens: Iterable[int]) -> HostConfig:
    """The same options with these probes."""
    pruning = config.pruning.model_copy(update={"probe_tokens": tuple(probe_tokens)})
    return config.model_copy(update={"pruning": pruning})
