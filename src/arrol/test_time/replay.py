"""Strategies replayed on recorded traces: their vote and their exact token cost. Pure numpy.

A clock counts decode steps; every running trace writes one token per step. A trace stops at the first check whose
evidence is under the threshold; evidence after that point is never read. Traces that end in the same step are reported
together. A consensus or the end of the token budget cuts off all running traces in that step. The budget is exact: its
last step may give a token to only some of the running traces.

Evidence is the window means of token confidences (DeepConf) or the head's quality at probes. Only new minima are kept,
since a trace can first fall under a threshold only there.

:func:`replay_table` gives accuracy and tokens per strategy and prompt, over the same orderings of the same traces.
:func:`at_tokens` and :func:`at_accuracy` read a curve of settings at a cost or at an accuracy. They interpolate between
two settings: a mixture that uses the second with probability x has exactly the interpolated tokens and accuracy.

Legend: ``N`` traces of a prompt, ``T`` tokens, ``E`` new minima of the evidence, ``A`` strategies, ``P`` prompts.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from arrol.errors import ConfigError, DataError
from arrol.test_time.confidence import WINDOW_TOKENS, lowest, window_means
from arrol.test_time.strategies import Outcome, Session, Strategy
from arrol.test_time.voting import Ballots, right_classes

ORDER_STREAM = 6
"""Second word of the random key of every ordering, before the prompt's number."""


@dataclass(frozen=True)
class Evidence:
    """Where a recorded trace falls under any threshold."""

    tokens_E: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    """Lengths at which the running minimum falls, ascending."""
    value_E: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """The minimum from there on, strictly descending."""
    lowest: float = math.nan
    """Least evidence, from which a warm-up sets the threshold; NaN without evidence."""
    every: int = 1
    """Tokens per decoded chunk; checks take place at multiples of it."""

    def stop(self, threshold: float, num_tokens: int) -> tuple[int, int] | None:
        """Tokens written and overshoot when it is stopped; None if it ends by itself no later than that."""
        first = int(np.searchsorted(-self.value_E, -threshold, side="right"))
        if first == len(self.value_E):
            return None
        reached = int(self.tokens_E[first])
        checked = -(-reached // self.every) * self.every
        return (checked, checked - reached) if checked < num_tokens else None


def window_evidence(confidence_T: ArrayLike, window: int = WINDOW_TOKENS, every: int = 1) -> Evidence:
    """DeepConf: only full windows stop; a trace shorter than one window never stops, and its mean is its lowest."""
    least = lowest(confidence_T, window)
    if np.size(confidence_T) < window:
        return Evidence(lowest=least, every=_chunk(every))
    means = window_means(confidence_T, window)
    return _records(np.arange(len(means)) + window, means, every)


def probe_evidence(quality_at: Mapping[int, float], every: int = 1) -> Evidence:
    """From the calibrated quality at each probe length; NaN is no evidence."""
    known = sorted((length, value) for length, value in quality_at.items() if not math.isnan(value))
    if not known:
        return Evidence(every=_chunk(every))
    lengths, values = zip(*known, strict=True)
    return _records(np.array(lengths), np.array(values, float), every)


def _records(tokens_E: np.ndarray, value_E: np.ndarray, every: int) -> Evidence:
    falls_E = np.concatenate([[True], value_E[1:] < np.minimum.accumulate(value_E)[:-1]])
    return Evidence(tokens_E[falls_E], value_E[falls_E], float(value_E.min()), _chunk(every))


def _chunk(every: int) -> int:
    if every < 1:
        raise ConfigError(f"every = {every}: give the tokens per chunk, at least 1")
    return every


@dataclass(frozen=True)
class Traces:
    """Whole recorded traces of one prompt."""

    ballots: Ballots
    tokens_N: np.ndarray
    """int: completion tokens."""
    evidence_N: Sequence[Evidence] = ()
    """Empty for strategies without a threshold."""

    def __post_init__(self) -> None:
        tokens_N = np.asarray(self.tokens_N)
        if tokens_N.shape != self.ballots.answer_N.shape or tokens_N.dtype.kind not in "iu" or (tokens_N < 1).any():
            raise DataError(f"tokens_N of shape {tokens_N.shape}: give one whole number from 1 per trace")
        if len(self.evidence_N) not in (0, len(tokens_N)):
            raise DataError(
                f"evidence_N of length {len(self.evidence_N)}: give none, or one for each of {len(tokens_N)}"
            )
        object.__setattr__(self, "tokens_N", tokens_N)


def replay(strategy: Strategy, traces: Traces, order: np.ndarray | None = None) -> Outcome:
    """Outcome of the strategy on the traces in this order, by default as recorded."""
    count = len(traces.tokens_N)
    order = np.arange(count) if order is None else np.asarray(order)
    if strategy.max_traces > len(order):
        raise DataError(f"max_traces = {strategy.max_traces}: {len(order)} are recorded; sample more or set it lower")
    if strategy.has_threshold and not traces.evidence_N:
        raise DataError("evidence_N is empty: this strategy has a threshold; give token confidences or probe qualities")
    session = Session(strategy, lambda numbers: traces.ballots.take(order[np.asarray(numbers, int)]))
    return session.outcome(_Clock(session, traces, order).run())


class _Clock:
    """Decode steps, run from event to event."""

    def __init__(self, session: Session, traces: Traces, order: np.ndarray) -> None:
        self.session, self.traces, self.order = session, traces, order
        self.now = 0
        self.began: dict[int, int] = {}
        self.ends: list[tuple[int, int]] = []
        """(step, number) of every running trace, a heap."""
        self.stops: dict[int, int] = {}
        """Running trace that will be stopped -> its overshoot."""

    def run(self) -> int:
        """Run until no trace is left; returns the step."""
        session, budget = self.session, self.session.strategy.token_budget
        while True:
            if budget is not None and session.tokens.total + self._written(self.now) >= budget:
                session.is_done = True
                self._cut()
            for number in session.starts():
                self._start(number)
            if not self.ends:
                return self.now
            due = self.ends[0][0]
            if budget is not None and session.tokens.total + self._written(due) > budget:
                self._spend(budget)
                continue
            self.now = due
            while self.ends and self.ends[0][0] == due:
                self._end(heapq.heappop(self.ends)[1], due)
            if session.look():
                self._cut()

    def _start(self, number: int) -> None:
        row, threshold = int(self.order[number]), self.session.threshold
        tokens = int(self.traces.tokens_N[row])
        if threshold is not None and self.traces.evidence_N:
            stop = self.traces.evidence_N[row].stop(threshold, tokens)
            if stop is not None:
                tokens, self.stops[number] = stop
        self.began[number] = self.now
        heapq.heappush(self.ends, (self.now + tokens, number))

    def _end(self, number: int, step: int) -> None:
        tokens = step - self.began[number]
        if number in self.stops:
            self.session.stopped(number, tokens, self.stops[number])
        elif self.traces.evidence_N:
            self.session.finished(number, tokens, self.traces.evidence_N[self.order[number]].lowest)
        else:
            self.session.finished(number, tokens)

    def _written(self, step: int) -> int:
        """Tokens of the running traces up to that step."""
        return sum(step - self.began[number] for _, number in self.ends)

    def _cut(self) -> None:
        """Abort all running traces now."""
        for _, number in self.ends:
            self.session.aborted(number, self.now - self.began[number])
        self.ends = []

    def _spend(self, budget: int) -> None:
        """Spend the rest of the budget before the next end: whole steps, then one token more for the first traces."""
        left = budget - self.session.tokens.total - self._written(self.now)
        steps, rest = divmod(left, len(self.ends))
        self.now += steps
        for _, number in sorted(self.ends, key=lambda end: end[1])[rest:]:
            self.session.aborted(number, self.now - self.began[number])
        for end, number in sorted(self.ends, key=lambda end: end[1])[:rest]:
            if end == self.now + 1:
                self._end(number, end)
            else:
                self.session.aborted(number, self.now + 1 - self.began[number])
        self.now += rest > 0
        self.ends, self.session.is_done = [], True


def orderings(count: int, num: int, *, seed: int = 0, prompt: int = 0) -> np.ndarray:
    """int ``[num, N]``: permutations, the same for every strategy."""
    stream = np.random.default_rng([seed, ORDER_STREAM, prompt])
    return stream.permuted(np.tile(np.arange(count), (num, 1)), axis=1)


class ReplayTable(NamedTuple):
    """Means over orderings, per strategy and prompt."""

    right_AP: np.ndarray
    tokens_AP: np.ndarray
    started_AP: np.ndarray
    stopped_AP: np.ndarray


def replay_table(
    strategies: Sequence[Strategy],
    traces_P: Sequence[Traces],
    right_P: Sequence[np.ndarray],
    *,
    num_orderings: int = 32,
    seed: int = 0,
) -> ReplayTable:
    """Every strategy on every prompt, over the same orderings; ``right_P`` holds bool ``[N]`` verdicts per prompt."""
    if len(traces_P) != len(right_P):
        raise DataError(f"right_P of length {len(right_P)}: there are {len(traces_P)} prompts; give verdicts for each")
    table = ReplayTable(*(np.zeros((len(strategies), len(traces_P))) for _ in ReplayTable._fields))
    for p, (traces, right_N) in enumerate(zip(traces_P, right_P, strict=True)):
        right_M = set(right_classes(traces.ballots.answer_N, right_N).tolist())
        orders = orderings(len(traces.tokens_N), num_orderings, seed=seed, prompt=p)
        for a, strategy in enumerate(strategies):
            runs = [replay(strategy, traces, order) for order in orders]
            facts = [(one.answer in right_M, one.tokens.total, one.num_started, one.num_stopped) for one in runs]
            for column_AP, mean in zip(table, np.mean(facts, axis=0), strict=True):
                column_AP[a, p] = mean
    return table


def at_tokens(tokens_AP: np.ndarray, right_AP: np.ndarray, tokens: float) -> np.ndarray:
    """float64 ``[P]``: accuracy per prompt of a mixture of settings that spends this many tokens per prompt.

    The rows are settings of one strategy; NaN for tokens outside their range.
    """
    return _first_crossing(tokens_AP, tokens_AP.mean(1), tokens, right_AP)


def at_accuracy(tokens_AP: np.ndarray, right_AP: np.ndarray, accuracy: float) -> np.ndarray:
    """float64 ``[P]``: tokens per prompt of the cheapest mixture of two neighbouring settings with this accuracy."""
    return _first_crossing(tokens_AP, right_AP.mean(1), accuracy, tokens_AP)


def _first_crossing(tokens_AP: np.ndarray, path_A: np.ndarray, at: float, value_AP: np.ndarray) -> np.ndarray:
    """The values where ``path_A`` first is ``at``, along settings of growing cost; NaN where it never is."""
    order = np.argsort(tokens_AP.mean(1), kind="stable")
    for low, high in pairwise([order[0], *order]):
        if min(path_A[low], path_A[high]) <= at <= max(path_A[low], path_A[high]):
            part = 0.0 if path_A[low] == at else (at - path_A[low]) / (path_A[high] - path_A[low])
            return (1 - part) * value_AP[low] + part * value_AP[high]
    return np.full(value_AP.shape[1], np.nan)
