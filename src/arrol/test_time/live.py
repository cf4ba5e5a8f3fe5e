"""A strategy on a live engine. Two objects, each on one seam of ``arrol.protocols``:

* :class:`HeadStop`  a ``Controller``: at every probe, rollouts whose calibrated quality is under the threshold stop.
* :class:`Waves`     a ``More``: how many rollouts of each prompt are started, and when all is over.

::

    strategy = head_stop(32, keep_top_percent=50, warmup_traces=8)
    stop = HeadStop(strategy, estimator, probe_tokens=(64, 128))
    waves = Waves(strategy, prompts, read, controller=stop)
    engine.generate(waves.first(), params, seed=0, controller=stop, more=waves)
    outcomes = waves.outcomes()

For evaluation only: stops are certain, so the recorded survival of the stopped is ``LEAST_SURVIVAL`` and nothing may be
weighted by its inverse. Both objects belong to one ``generate`` call.

Deviations, ours: (1) a rollout at a probe while the warm-up of its prompt still runs is kept (reason ``warmup``); in
waves that never happens; (2) the last ``min_kept`` rollouts of a prompt are not stopped, or there might be nobody to
vote; which ones depends on who arrives first, and is recorded as ``floor``. A replay has no such floor: 0 compares; (3)
after a consensus the rest stops at the next tick, and what it wrote meanwhile is counted as aborted; without a
controller it runs to its end and is counted as aborted too; (4) the token budget of a strategy only keeps new rollouts
from starting here; in a replay it is exact.

DeepConf cannot run here: engines return no top-k log-probabilities per step. Replay it, or use ``ConfidenceScheduler``
inside vLLM, which stops by the mean log-probability of sampled tokens.

Legend: ``C`` candidates, ``F`` features, ``N`` rollouts that ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from arrol.errors import ConfigError
from arrol.protocols import Estimator
from arrol.test_time.strategies import Outcome, Session, Strategy, warmup_threshold
from arrol.test_time.voting import Ballots
from arrol.types import Completion, FinishReason, GroupRequest, ProbeEvent, Prompt, PruningDecision, Reason, RolloutId

LEAST_SURVIVAL = 1e-9
"""Recorded for the stopped, since survival is above 0 by definition."""


@dataclass
class _Group:
    """The rollouts of one prompt."""

    size: int = 0
    spared: set[int] = field(default_factory=set)
    reached: dict[int, int] = field(default_factory=dict)
    """Rollout -> probes it has reached."""
    lowest: dict[int, float] = field(default_factory=dict)
    over: set[int] = field(default_factory=set)
    """Ended or stopped."""
    num_stopped: int = 0
    is_cancelled: bool = False
    decisions: dict[int, PruningDecision] = field(default_factory=dict)


class HeadStop:
    """Implements :class:`arrol.protocols.Controller`."""

    def __init__(
        self, strategy: Strategy, estimator: Estimator, probe_tokens: Sequence[int], *, min_kept: int = 1
    ) -> None:
        if not probe_tokens or list(probe_tokens) != sorted({*probe_tokens}) or probe_tokens[0] < 1:
            raise ConfigError(f"probe_tokens = {list(probe_tokens)}: give ascending completion lengths from 1")
        self._strategy, self._estimator, self._min_kept = strategy, estimator, min_kept
        self._probe_tokens = tuple(probe_tokens)
        self._groups: dict[tuple[int, int], _Group] = {}

    @property
    def probe_tokens(self) -> tuple[int, ...]:
        return self._probe_tokens

    def open(self, step: int, group: int, size: int, success_rate: float | None = None, *, prune: bool = True) -> None:
        """Announce rollouts; those opened with ``prune = False`` are judged and never stopped."""
        state = self._groups.setdefault((step, group), _Group())
        if not prune:
            state.spared.update(range(state.size, state.size + size))
        state.size += size

    def probed(self, events: Sequence[ProbeEvent]) -> list[RolloutId]:
        """Rollouts have reached a probe; returns the ids to stop now."""
        unique = {(event.rollout_id, event.probe): event for event in events if self._is_fresh(event)}
        fresh = [event for _, event in sorted(unique.items(), key=lambda item: item[0])]
        stops = []
        for event, score, quality in zip(fresh, *self._judge(fresh), strict=True):
            group, index = self._groups[event.rollout_id[:2]], event.rollout_id.index
            group.reached[index] = event.probe + 1
            if math.isfinite(quality):
                group.lowest[index] = min(quality, group.lowest.get(index, math.inf))
            reason, keep = self._verdict(event.rollout_id, quality)
            survival = 1.0 if keep else LEAST_SURVIVAL
            group.decisions[index] = PruningDecision(
                event.rollout_id, event.probe, keep, survival, reason, score, quality, self._estimator.version
            )
            if not keep:
                group.over.add(index)
                group.num_stopped += 1
                stops.append(event.rollout_id)
        return stops

    def finished(self, rollout_ids: Sequence[RolloutId]) -> list[RolloutId]:
        """Rollouts have ended, however they did; nobody waits for them."""
        for step, group, index in rollout_ids:
            self._groups[step, group].over.add(index)
        return []

    def tick(self, now: float) -> list[RolloutId]:
        """Whoever still runs in a cancelled group; said again until it is over, since a rollout may yet be queued."""
        return [
            RolloutId(step, number, index)
            for (step, number), group in sorted(self._groups.items())
            if group.is_cancelled
            for index in range(group.size)
            if index not in group.over
        ]

    def decisions(self, step: int, group: int) -> list[PruningDecision]:
        """The last decision about each candidate of a group, by rollout index."""
        return [decision for _, decision in sorted(self._groups[step, group].decisions.items())]

    def cancel(self, step: int, group: int) -> None:
        """The answer of this prompt is decided: the next tick stops the rest."""
        self._groups[step, group].is_cancelled = True

    def lowest(self, rollout_id: RolloutId) -> float:
        """Least quality at its probes; NaN where it had none."""
        return self._groups[rollout_id[:2]].lowest.get(rollout_id.index, math.nan)

    def threshold(self, step: int, group: int) -> float | None:
        """Quality under which a rollout of this prompt stops; None while its warm-up runs."""
        state, warmup = self._groups[step, group], range(self._strategy.warmup_traces)
        if self._strategy.keep_top_percent is None:
            return -math.inf if self._strategy.stop_below is None else self._strategy.stop_below
        if not all(index in state.over for index in warmup):
            return None
        return warmup_threshold([state.lowest.get(i, math.nan) for i in warmup], self._strategy.keep_top_percent)

    def _verdict(self, rollout_id: RolloutId, quality: float) -> tuple[Reason, bool]:
        """Why, and whether it is kept."""
        if not math.isfinite(quality):
            return Reason.NO_SCORE, True
        group, threshold = self._groups[rollout_id[:2]], self.threshold(rollout_id.step, rollout_id.group)
        if rollout_id.index in group.spared or threshold is None:
            return Reason.WARMUP, True
        if quality >= threshold:
            return Reason.THRESHOLD, True
        if group.size - group.num_stopped <= self._min_kept:
            return Reason.FLOOR, True
        return Reason.THRESHOLD, False

    def _is_fresh(self, event: ProbeEvent) -> bool:
        """False for what was seen before, or is over."""
        group, index = self._groups.get(event.rollout_id[:2]), event.rollout_id.index
        return group is not None and index not in group.over and event.probe >= group.reached.get(index, 0)

    def _judge(self, events: Sequence[ProbeEvent]) -> tuple[list[float], list[float]]:
        """Scores and qualities; NaN where there is nothing to judge by."""
        score_C, quality_C = np.full(len(events), np.nan), np.full(len(events), np.nan)
        for probe in sorted({event.probe for event in events}):
            rows = [c for c, event in enumerate(events) if event.probe == probe]
            for c in rows:
                score, features_F = events[c].score, events[c].features_F
                if score is not None:
                    score_C[c] = score
                elif features_F is not None:
                    score_C[c] = self._estimator.scores(features_F[None], probe)[0]
            known = [c for c in rows if math.isfinite(score_C[c])]
            if known:
                quality_C[known] = self._estimator.quality(score_C[known], probe)
        return score_C.tolist(), quality_C.tolist()


class Reading(NamedTuple):
    """What a vote may know of one completion; NaN for what its rule does not read."""

    answer: int
    """Class among the answers of its prompt, built by the verifier's equivalence; -1 without an answer."""
    score: float = math.nan
    quality: float = math.nan
    confidence: float = math.nan


Read = Callable[[RolloutId, Completion], Reading]


class Waves:
    """Implements :data:`arrol.protocols.More`: one session per prompt, and what each completion says."""

    def __init__(
        self,
        strategy: Strategy,
        prompts: Sequence[Prompt],
        read: Read,
        *,
        step: int = 0,
        controller: HeadStop | None = None,
    ) -> None:
        """``read`` is asked once about each completion that ended by itself."""
        needs_stops = strategy.keep_top_percent is not None or strategy.stop_below is not None
        if needs_stops and controller is None:
            raise ConfigError("controller = None: this strategy stops rollouts; give the HeadStop that the engine has")
        self._strategy, self._prompts, self._read = strategy, list(prompts), read
        self._step, self._controller = step, controller
        self._readings: list[dict[int, Reading]] = [{} for _ in prompts]
        self._sessions = [Session(strategy, self._ballots_of(group)) for group in range(len(self._prompts))]

    def first(self) -> list[GroupRequest]:
        """What to generate at the beginning."""
        return [request for group in range(len(self._prompts)) for request in self._requests(group)]

    def __call__(self, ended: Sequence[tuple[RolloutId, Completion]]) -> list[GroupRequest]:
        """Rollouts that ended, in; the next ones, out."""
        touched = sorted({rollout_id.group for rollout_id, _ in ended})
        for rollout_id, completion in sorted(ended, key=lambda item: item[0]):
            self._tell(rollout_id, completion)
        for group in touched:
            if self._sessions[group].look() and self._controller is not None:
                self._controller.cancel(self._step, group)
        return [request for group in touched for request in self._requests(group)]

    def outcomes(self) -> list[Outcome]:
        """One per prompt, when the engine has returned."""
        return [session.outcome() for session in self._sessions]

    def _tell(self, rollout_id: RolloutId, completion: Completion) -> None:
        session, number, tokens = self._sessions[rollout_id.group], rollout_id.index, completion.num_tokens
        if self._controller is not None:
            self._controller.finished([rollout_id])
        if completion.finish_reason.survived:
            if not session.is_done:
                self._readings[rollout_id.group][number] = self._read(rollout_id, completion)
            lowest = math.nan if self._controller is None else self._controller.lowest(rollout_id)
            session.finished(number, tokens, lowest)
        elif completion.finish_reason is FinishReason.PRUNED and not session.is_done:
            session.stopped(number, tokens)
        else:
            session.aborted(number, tokens)

    def _requests(self, group: int) -> list[GroupRequest]:
        numbers = self._sessions[group].starts()
        if not numbers:
            return []
        is_warmup = numbers[0] < self._strategy.warmup_traces
        return [
            GroupRequest(self._step, group, self._prompts[group], len(numbers), first=numbers[0], prune=not is_warmup)
        ]

    def _ballots_of(self, group: int) -> Callable[[Sequence[int]], Ballots]:
        def ballots(numbers: Sequence[int]) -> Ballots:
            readings = [self._readings[group][number] for number in numbers]
            columns = [np.array(values) for values in zip(*readings, strict=True)]
            return Ballots(*columns)

        return ballots
