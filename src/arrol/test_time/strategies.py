"""Test-time strategies: how many traces of a prompt to sample, which to stop early, and which vote. Pure numpy.

:class:`Session` is the state machine of one prompt. ``replay.py`` drives it with recorded traces, ``live.py`` with an
engine. Four functions give its usual settings:

* :func:`fixed_traces`     N traces to the end. The control.
* :func:`deepconf_online`  arXiv 2508.15260: ``warmup_traces`` run to the end; threshold s = percentile(100 - eta) of
                           their lowest windows; later traces stop as soon as one full window is under s. Warm-up
                           traces at or above s and later traces that were not stopped vote, weighted by their lowest.
* :func:`head_stop`        ours: the same with the head's quality at probes; s is a percentile of the lowest qualities
                           of warm-up traces, or absolute, since quality is calibrated.
* :func:`early_consensus`  ours: traces start one by one; all ends when the best answer has the share ``consensus`` of
                           the votes and ``min_traces`` have voted. ``replace(strategy, consensus=...)`` adds this end
                           to any strategy.

Stops are certain, without survival or weights: for evaluation only. A stopped trace never votes, and the remaining
traces are not a random sample of the pool.

Deviations, ours: (1) later traces that ended with a lowest window under s vote, unless ``lenient`` is False as in
DeepConf's code; (2) warm-up traces without evidence vote and do not count in the percentile.

Legend: ``N`` traces that have ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from arrol.errors import ConfigError
from arrol.test_time.confidence import top_threshold
from arrol.test_time.voting import Ballots, Vote, WeightRule, leading_share, vote, vote_rule


@dataclass(frozen=True)
class Strategy:
    """Settings of a session; the functions below give the usual combinations."""

    max_traces: int
    rule: str | WeightRule = "majority"
    warmup_traces: int = 0
    """Traces that run to the end before any other trace starts."""
    keep_top_percent: float | None = None
    """Percent of the warm-up traces that lie above the threshold; 10 stops many, 90 few."""
    stop_below: float | None = None
    """Absolute threshold of the evidence, instead of a warm-up."""
    lenient: bool = True
    """Later traces that ended by themselves vote, whatever their evidence."""
    consensus: float | None = None
    """Share of the votes at which all ends; None: never."""
    min_traces: int = 1
    """Votes before a consensus counts."""
    at_once: int | None = None
    """Traces of the prompt that run at the same time; None: all."""
    token_budget: int | None = None
    """Most generated tokens of the prompt, warm-up included."""

    def __post_init__(self) -> None:
        vote_rule(self.rule)
        for name, value, least in (
            ("max_traces", self.max_traces, max(1, self.min_traces, self.warmup_traces)),
            ("warmup_traces", self.warmup_traces, 0),
            ("min_traces", self.min_traces, 1),
            ("at_once", self.at_once, 1),
            ("token_budget", self.token_budget, 1),
        ):
            if value is not None and value < least:
                raise ConfigError(f"{name} = {value}: give a whole number from {least}")
        if (self.keep_top_percent is None) != (self.warmup_traces == 0):
            raise ConfigError(
                f"keep_top_percent = {self.keep_top_percent}, warmup_traces = {self.warmup_traces}: a threshold from "
                "the warm-up needs both; set both or neither"
            )
        if self.keep_top_percent is not None and not 0 < self.keep_top_percent <= 100:
            raise ConfigError(f"keep_top_percent = {self.keep_top_percent}: give a share above 0 and at most 100")
        if self.stop_below is not None and (self.keep_top_percent is not None or not math.isfinite(self.stop_below)):
            raise ConfigError(f"stop_below = {self.stop_below}: give a finite number, without keep_top_percent")
        if self.consensus is not None and not 0 < self.consensus <= 1:
            raise ConfigError(f"consensus = {self.consensus}: give a share above 0 and at most 1")

    @property
    def has_threshold(self) -> bool:
        """The strategy stops traces by their evidence."""
        return self.keep_top_percent is not None or self.stop_below is not None


def fixed_traces(max_traces: int, rule: str | WeightRule = "majority") -> Strategy:
    """All traces run to the end and vote."""
    return Strategy(max_traces, rule)


def deepconf_online(
    max_traces: int = 256,
    *,
    keep_top_percent: float = 10,
    warmup_traces: int = 16,
    rule: str | WeightRule = "confidence",
) -> Strategy:
    """DeepConf-low by default, DeepConf-high with 90."""
    return Strategy(max_traces, rule, warmup_traces=warmup_traces, keep_top_percent=keep_top_percent)


def head_stop(
    max_traces: int,
    *,
    stop_quality: float | None = None,
    keep_top_percent: float | None = None,
    warmup_traces: int = 0,
    rule: str | WeightRule = "quality",
) -> Strategy:
    """Stop by the head's quality: under ``stop_quality``, or under a percentile of a warm-up."""
    if (stop_quality is None) == (keep_top_percent is None):
        raise ConfigError(
            f"stop_quality = {stop_quality}: give either stop_quality or keep_top_percent with warmup_traces"
        )
    return Strategy(
        max_traces, rule, warmup_traces=warmup_traces, keep_top_percent=keep_top_percent, stop_below=stop_quality
    )


def early_consensus(
    max_traces: int, *, min_traces: int, consensus: float = 0.95, rule: str | WeightRule = "majority"
) -> Strategy:
    """``min_traces`` run at once; while they disagree, a new trace starts when one ends."""
    return Strategy(max_traces, rule, consensus=consensus, min_traces=min_traces, at_once=min_traces)


@dataclass
class Tokens:
    """Generated tokens by the fate of their trace; the first four add up to the total."""

    warmup: int = 0
    finished: int = 0
    """Tokens of traces after the warm-up that ended by themselves."""
    stopped: int = 0
    """Tokens of traces under the threshold, overshoot included."""
    aborted: int = 0
    """Tokens of traces that failed, or still ran at a consensus or at the end of the budget."""
    overshoot: int = 0
    """Part of ``stopped``: written after the first window or probe under the threshold, since chunks are decoded."""

    @property
    def total(self) -> int:
        return self.warmup + self.finished + self.stopped + self.aborted


@dataclass(frozen=True)
class Outcome:
    """Vote and cost of a strategy on one prompt."""

    vote: Vote
    tokens: Tokens
    num_started: int
    num_stopped: int
    num_aborted: int
    threshold: float
    """-inf where the strategy stops nothing."""
    steps: int = 0
    """Decode steps from the first start to the last end; 0 from a driver without a clock."""

    @property
    def answer(self) -> int:
        return self.vote.answer


@dataclass
class Session:
    """Traces of one prompt, numbered in the order of their start."""

    strategy: Strategy
    ballots: Callable[[Sequence[int]], Ballots]
    """Numbers of traces that ended by themselves -> their ballots, in that order."""
    num_started: int = 0
    num_stopped: int = 0
    num_aborted: int = 0
    tokens: Tokens = field(default_factory=Tokens)
    is_done: bool = False
    """No trace starts any more, and running traces are to be aborted: consensus, or set by the driver."""
    running: set[int] = field(default_factory=set)
    evidence: dict[int, float] = field(default_factory=dict)
    """Trace that ended by itself -> its lowest evidence, NaN without evidence."""
    _threshold: float | None = None

    def starts(self) -> list[int]:
        """Numbers of the traces to start now."""
        strategy = self.strategy
        goal = strategy.max_traces if self.threshold is not None else strategy.warmup_traces
        room = goal if strategy.at_once is None else strategy.at_once - len(self.running)
        if self.is_done or (strategy.token_budget is not None and self.tokens.total >= strategy.token_budget):
            return []
        fresh = list(range(self.num_started, min(goal, self.num_started + max(room, 0))))
        self.num_started += len(fresh)
        self.running.update(fresh)
        return fresh

    @property
    def threshold(self) -> float | None:
        """Evidence under which a trace stops; None while the warm-up runs, -inf where the strategy stops nothing."""
        if self._threshold is None:
            strategy = self.strategy
            if strategy.keep_top_percent is None:
                self._threshold = -math.inf if strategy.stop_below is None else strategy.stop_below
            elif self.num_started >= (warmup := strategy.warmup_traces) and self.running.isdisjoint(range(warmup)):
                lowest = [self.evidence.get(number, math.nan) for number in range(warmup)]
                self._threshold = warmup_threshold(lowest, strategy.keep_top_percent)
        return self._threshold

    def finished(self, number: int, tokens: int, lowest: float = math.nan) -> None:
        """A trace ended by itself; ``lowest`` is its least evidence."""
        self.running.remove(number)
        if self.is_done:
            self.num_aborted += 1
            self.tokens.aborted += tokens
            return
        self.evidence[number] = lowest
        if number < self.strategy.warmup_traces:
            self.tokens.warmup += tokens
        else:
            self.tokens.finished += tokens

    def stopped(self, number: int, tokens: int, overshoot: int = 0) -> None:
        """A trace was stopped because its evidence was under the threshold."""
        self.running.remove(number)
        self.num_stopped += 1
        self.tokens.stopped += tokens
        self.tokens.overshoot += overshoot

    def aborted(self, number: int, tokens: int) -> None:
        """A trace was cut off by a consensus or the budget, or it failed."""
        self.running.remove(number)
        self.num_aborted += 1
        self.tokens.aborted += tokens

    def look(self) -> bool:
        """Check for a consensus after each batch of events, once the warm-up is over; sets and returns ``is_done``."""
        consensus = self.strategy.consensus
        if consensus is not None and not self.is_done and self.threshold is not None:
            voters = self.voters()
            if len(voters) >= self.strategy.min_traces:
                share, num_votes = leading_share(self.ballots(voters), self.strategy.rule)
                self.is_done = num_votes >= self.strategy.min_traces and share >= consensus - 1e-12
        return self.is_done

    def voters(self) -> list[int]:
        """Traces that vote, ascending."""
        threshold = -math.inf if self.threshold is None else self.threshold
        spared = self.strategy.warmup_traces if self.strategy.lenient else math.inf
        return [n for n, lowest in sorted(self.evidence.items()) if n >= spared or not lowest < threshold]

    def vote(self) -> Vote:
        """The vote of :meth:`voters`; answer -1 without any."""
        voters = self.voters()
        return vote(self.ballots(voters), self.strategy.rule) if voters else Vote(-1, 0.0, 0, False)

    def outcome(self, steps: int = 0) -> Outcome:
        assert not self.running, self.running
        threshold = math.nan if self.threshold is None else self.threshold
        return Outcome(self.vote(), self.tokens, self.num_started, self.num_stopped, self.num_aborted, threshold, steps)


def warmup_threshold(lowest_N: Sequence[float], keep_top_percent: float) -> float:
    """Percentile of the lowest evidence of warm-up traces; -inf, which stops nothing, where no trace has evidence."""
    known_N = np.asarray(lowest_N, float)
    known_N = known_N[~np.isnan(known_N)]
    return float(top_threshold(known_N, keep_top_percent)) if known_N.size else -math.inf
