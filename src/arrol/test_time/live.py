"""A strategy on a live engine::

    live = LiveSessions(head_stop(32, keep_top_percent=50, warmup_traces=8), prompts, read,
                        estimator=estimator, probe_tokens=(64, 128))
    engine.generate(live.first(), params, seed=0, controller=live, more=live)
    outcomes = live.outcomes()

Each prompt has a :class:`Session`, the state machine that a replay drives with recorded traces. Stops are certain, so
this is for evaluation only: nothing may be weighted by 1/survival. ``docs/test_time.md`` lists how a live run differs
from a replay.

Legend: ``N`` rollouts that ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from arrol.errors import ConfigError
from arrol.protocols import Controller, Estimator
from arrol.quality.scoring import scores_and_qualities
from arrol.test_time.strategies import Outcome, Session, Strategy
from arrol.test_time.voting import Ballots
from arrol.types import (
    LEAST_SURVIVAL,
    Completion,
    FinishReason,
    GroupRequest,
    ProbeEvent,
    Prompt,
    PruningDecision,
    Reason,
    RolloutId,
)

STEP = 0
"""Step of every request: evaluation is step 0."""


class Ballot(NamedTuple):
    """What one completion votes with; NaN for fields that the vote does not read."""

    answer: int
    """Class among the answers of its prompt, built by the verifier's equivalence; -1 without an answer."""
    score: float = math.nan
    quality: float = math.nan
    confidence: float = math.nan


class LiveSessions(Controller):
    """Controller and ``more`` callback of one ``generate`` call; an end stops no sibling, since none waits for it."""

    def __init__(
        self,
        strategy: Strategy,
        prompts: Sequence[Prompt],
        read: Callable[[RolloutId, Completion], Ballot],
        *,
        estimator: Estimator | None = None,
        probe_tokens: Sequence[int] = (),
        min_kept: int = 1,
    ) -> None:
        """``read`` is called once for each completion that may vote.

        A strategy with a threshold needs ``estimator`` and ``probe_tokens``. The last ``min_kept`` rollouts of a
        prompt are not stopped; a replay has no such floor, so compare with 0.
        """
        if (estimator is None) == bool(probe_tokens) or (strategy.has_threshold and not probe_tokens):
            raise ConfigError(
                f"probe_tokens = {list(probe_tokens)}: give them together with an estimator; a strategy with a "
                "threshold needs both"
            )
        if list(probe_tokens) != sorted({*probe_tokens}) or any(length < 1 for length in probe_tokens):
            raise ConfigError(f"probe_tokens = {list(probe_tokens)}: give ascending completion lengths from 1")
        self._strategy, self._prompts, self._read = strategy, list(prompts), read
        self._estimator, self._probe_tokens, self._min_kept = estimator, tuple(probe_tokens), min_kept
        self._sessions = [Session(strategy, partial(self._ballots_of, group)) for group in range(len(self._prompts))]
        self._ballots: list[dict[int, Ballot]] = [{} for _ in self._prompts]
        self._decisions: list[dict[int, PruningDecision]] = [{} for _ in self._prompts]
        self._lowest: dict[RolloutId, float] = {}
        """Least quality at the probes of a rollout."""

    def first(self) -> list[GroupRequest]:
        """The requests that ``generate`` begins with."""
        return [request for group in range(len(self._prompts)) for request in self._requests(group)]

    def __call__(self, ended: Sequence[tuple[RolloutId, Completion]]) -> list[GroupRequest]:
        """Callback: ended rollouts in, new requests out."""
        for rollout_id, completion in sorted(ended, key=lambda item: item[0]):
            self._end(rollout_id, completion)
        touched = sorted({rollout_id.group for rollout_id, _ in ended})
        for group in touched:
            self._sessions[group].look()
        return [request for group in touched for request in self._requests(group)]

    def outcomes(self) -> list[Outcome]:
        """One per prompt, once the engine has returned."""
        return [session.outcome() for session in self._sessions]

    @property
    def probe_tokens(self) -> tuple[int, ...]:
        return self._probe_tokens

    def open(self, step: int, group: int, size: int, success_rate: float | None = None, *, prune: bool = True) -> None:
        """Nothing: every rollout was started by its session."""

    def probed(self, events: Sequence[ProbeEvent]) -> list[RolloutId]:
        """Rollouts have reached a probe; returns the ids to stop now, those with a quality under the threshold."""
        assert self._estimator is not None
        unique = {(event.rollout_id, event.probe): event for event in events if self._is_fresh(event)}
        fresh = [unique[key] for key in sorted(unique)]
        stops = []
        for event, score, quality in zip(fresh, *scores_and_qualities(fresh, self._estimator), strict=True):
            rollout_id = event.rollout_id
            if math.isfinite(quality):
                self._lowest[rollout_id] = min(float(quality), self._lowest.get(rollout_id, math.inf))
            keep, reason = self._verdict(rollout_id.group, float(quality))
            survival, version = 1.0 if keep else LEAST_SURVIVAL, self._estimator.version
            self._decisions[rollout_id.group][rollout_id.index] = PruningDecision(
                rollout_id, event.probe, keep, survival, reason, float(score), float(quality), version
            )
            if not keep:
                stops.append(rollout_id)
        return stops

    def tick(self, now: float) -> list[RolloutId]:
        """All running rollouts of prompts with a consensus, at every tick, since a rollout may still be queued."""
        done = [(group, session) for group, session in enumerate(self._sessions) if session.is_done]
        return [RolloutId(STEP, group, index) for group, session in done for index in sorted(session.running)]

    def decisions(self, step: int, group: int) -> list[PruningDecision]:
        """The last decision about each candidate of a group, by rollout index."""
        return [decision for _, decision in sorted(self._decisions[group].items())]

    def decision(self, rollout_id: RolloutId) -> PruningDecision | None:
        """The last decision about a rollout; None for one that reached no probe."""
        return self._decisions[rollout_id.group].get(rollout_id.index)

    def _is_fresh(self, event: ProbeEvent) -> bool:
        """False for a probe that was scored before and for a rollout that was stopped."""
        last = self.decision(event.rollout_id)
        return last is None or (last.keep and event.probe > last.probe)

    def _verdict(self, group: int, quality: float) -> tuple[bool, Reason]:
        """Whether a rollout with this quality is kept, and why."""
        threshold = self._sessions[group].threshold
        if not math.isfinite(quality):
            return True, Reason.NO_SCORE
        if threshold is None:
            return True, Reason.WARMUP
        if quality >= threshold:
            return True, Reason.THRESHOLD
        num_stopped = sum(not decision.keep for decision in self._decisions[group].values())
        if self._sessions[group].num_started - num_stopped <= self._min_kept:
            return True, Reason.FLOOR
        return False, Reason.THRESHOLD

    def _end(self, rollout_id: RolloutId, completion: Completion) -> None:
        session, number, tokens = self._sessions[rollout_id.group], rollout_id.index, completion.num_tokens
        if completion.finish_reason.survived:
            if not session.is_done:
                self._ballots[rollout_id.group][number] = self._read(rollout_id, completion)
            session.finished(number, tokens, self._lowest.get(rollout_id, math.nan))
        elif completion.finish_reason is FinishReason.PRUNED and not session.is_done:
            session.stopped(number, tokens)
        else:
            session.aborted(number, tokens)

    def _requests(self, group: int) -> list[GroupRequest]:
        numbers = self._sessions[group].starts()
        if not numbers:
            return []
        prune = numbers[0] >= self._strategy.warmup_traces
        return [GroupRequest(STEP, group, self._prompts[group], len(numbers), first=numbers[0], prune=prune)]

    def _ballots_of(self, group: int, numbers: Sequence[int]) -> Ballots:
        cast = [self._ballots[group][number] for number in numbers]
        return Ballots(*(np.array(column) for column in zip(*cast, strict=True)))
