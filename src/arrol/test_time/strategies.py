"""How many traces, which of them to the end, and who votes: strategies under a token budget. Pure numpy.

One state machine, :class:`Session`, is told what happened to the traces of one prompt and says what to do next. It
knows no engine and no clock; ``replay.py`` drives it with recorded traces, ``live.py`` with an engine. Four strategies,
which are four settings of it:

* :func:`fixed_traces`     N traces to the end. The control.
* :func:`deepconf_online`  arXiv 2508.15260: ``warmup_traces`` to the end; threshold s = percentile(100 - eta) of their
                           lowest windows; later traces stop as soon as one full window lies under s. Warm-up traces
                           with lowest window >= s vote, and later ones that were not stopped, each with its lowest.
* :func:`head_stop`        ours: the same with the head's quality at probe points in place of windows; s is a percentile
                           of the lowest qualities of warm-up traces, or absolute, since quality is calibrated.
* :func:`early_consensus`  ours: traces start one by one, and all ends when the best answer has the share ``consensus``
                           of V and ``min_traces`` have voted.

``replace(strategy, consensus=0.95, min_traces=16)`` adds such an end to any of them; DeepConf's code has none.

Stops are certain, with no survival and no weights: for evaluation only. A stopped trace never votes, and what survives
is no random sample: its V estimates nothing about the pool.

Deviations: (1) DeepConf's code also takes away the votes of later traces that ended by themselves with a lowest window
under s, which only traces shorter than a window, or bad to the last token, can have; ``lenient = False`` does so; (2)
warm-up traces without evidence (ended before the first probe) vote and do not count in the percentile; (3) consensus is
looked at when traces end, after the warm-up: those that end fast weigh more in it than in a vote of all; (4) the budget
is a cap of ours.

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
    """What a session does; the functions below set the usual combinations."""

    max_traces: int
    rule: str | WeightRule = "majority"
    warmup_traces: int = 0
    """Traces that run to the end before any other starts."""
    keep_top_percent: float | None = None
    """Threshold from the warm-up: the share of its traces that lie above; 10 is aggressive, 90 cautious."""
    stop_below: float | None = None
    """Absolute threshold of the evidence, in place of a warm-up."""
    lenient: bool = True
    """A later trace that ended by itself votes, whatever its evidence."""
    consensus: float | None = None
    """Share of V at which all ends; None: never."""
    min_traces: int = 1
    """Votes before a consensus counts."""
    at_once: int | None = None
    """Traces of the prompt that run at the same time; None: all that are wanted."""
    token_budget: int | None = None
    """Generated tokens of the prompt, warm-up included."""

    def __post_init__(self) -> None:
        vote_rule(self.rule)
        for name in ("max_traces", "min_traces", "at_once", "token_budget"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} = {value}: give a whole number from 1")
        if max(self.min_traces, self.warmup_traces) > self.max_traces or self.warmup_traces < 0:
            raise ConfigError(
                f"max_traces = {self.max_traces}: min_traces = {self.min_traces} and warmup_traces = "
                f"{self.warmup_traces} must lie within; give a larger max_traces"
            )
        if (self.keep_top_percent is None) != (self.warmup_traces == 0):
            raise ConfigError(
                f"keep_top_percent = {self.keep_top_percent}, warmup_traces = {self.warmup_traces}: a threshold from "
                "the warm-up needs both; set both or neither"
            )
        if self.keep_top_percent is not None and not 0 < self.keep_top_percent <= 100:
            raise ConfigError(f"keep_top_percent = {self.keep_top_percent}: give a share above 0 and at most 100")
        if self.stop_below is not None and (self.keep_top_percent is not None or not math.isfinite(self.stop_below)):
            raise ConfigError(f"stop_below = {self.stop_below}: a finite number, and not beside keep_top_percent")
        if self.consensus is not None and not 0 < self.consensus <= 1:
            raise ConfigError(f"consensus = {self.consensus}: give a share above 0 and at most 1")

    @property
    def has_threshold(self) -> bool:
        """The strategy stops traces by their evidence."""
        return self.keep_top_percent is not None or self.stop_below is not None


def fixed_traces(max_traces: int, rule: str | WeightRule = "majority") -> Strategy:
    """Everything is generated."""
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
    """Either ``stop_quality``, or a percentile with its warm-up."""
    if (stop_quality is None) == (keep_top_percent is None):
        raise ConfigError(f"stop_quality = {stop_quality}: give either it or keep_top_percent with warmup_traces")
    return Strategy(
        max_traces, rule, warmup_traces=warmup_traces, keep_top_percent=keep_top_percent, stop_below=stop_quality
    )


def early_consensus(
    max_traces: int, *, min_traces: int, consensus: float = 0.95, rule: str | WeightRule = "majority"
) -> Strategy:
    """``min_traces`` run at once, and the place of one that ended goes to the next while they disagree."""
    return Strategy(max_traces, rule, consensus=consensus, min_traces=min_traces, at_once=min_traces)


@dataclass
class Tokens:
    """Generated tokens by what became of their trace; the four parts add up to the total."""

    warmup: int = 0
    finished: int = 0
    """Of later traces that ended by themselves."""
    stopped: int = 0
    """Of traces under the threshold, overshoot included."""
    aborted: int = 0
    """Of traces that ran, or ended too late to vote, when all was over: consensus, budget."""
    overshoot: int = 0
    """Part of ``stopped``: written after the first bad window or probe, because decoding goes in chunks."""

    @property
    def total(self) -> int:
        return self.warmup + self.finished + self.stopped + self.aborted


@dataclass(frozen=True)
class Outcome:
    """What a strategy made of one prompt."""

    vote: Vote
    tokens: Tokens
    num_started: int
    num_stopped: int
    num_aborted: int
    threshold: float
    """-inf where nothing can be stopped."""
    steps: int = 0
    """Decode steps from the first start to the last end, where the driver has a clock."""

    @property
    def answer(self) -> int:
        return self.vote.answer


@dataclass
class Session:
    """Traces of one prompt, numbered in the order of their start."""

    strategy: Strategy
    ballots: Callable[[Sequence[int]], Ballots]
    """Numbers of traces that ended by themselves -> what they vote with, in that order."""
    num_started: int = 0
    num_stopped: int = 0
    num_aborted: int = 0
    tokens: Tokens = field(default_factory=Tokens)
    is_done: bool = False
    """Nobody is to start, and whoever runs is to be aborted: consensus, or told by the driver."""
    running: set[int] = field(default_factory=set)
    evidence: dict[int, float] = field(default_factory=dict)
    """Trace that ended by itself -> its lowest evidence, NaN without any."""
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
        """Evidence under which a trace stops; None while the warm-up runs, -inf where nothing is stopped."""
        if self._threshold is None:
            strategy = self.strategy
            if strategy.keep_top_percent is None:
                self._threshold = -math.inf if strategy.stop_below is None else strategy.stop_below
            elif all(self._is_over(number) for number in range(strategy.warmup_traces)):
                lowest = [self.evidence.get(number, math.nan) for number in range(strategy.warmup_traces)]
                self._threshold = warmup_threshold(lowest, strategy.keep_top_percent)
        return self._threshold

    def finished(self, number: int, tokens: int, lowest: float = math.nan) -> None:
        """A trace ended by itself. ``lowest`` is the least evidence it showed."""
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
        """A trace was stopped for its evidence."""
        self.running.remove(number)
        self.num_stopped += 1
        self.tokens.stopped += tokens
        self.tokens.overshoot += overshoot

    def aborted(self, number: int, tokens: int) -> None:
        """A trace was cut off because all is over, or it failed."""
        self.running.remove(number)
        self.num_aborted += 1
        self.tokens.aborted += tokens

    def look(self) -> bool:
        """To be called when a batch of events has been told: is there a consensus? Sets and returns ``is_done``."""
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
        """The vote of those who may."""
        voters = self.voters()
        return vote(self.ballots(voters), self.strategy.rule) if voters else Vote(-1, 0.0, 0, False)

    def outcome(self, steps: int = 0) -> Outcome:
        assert not self.running, self.running
        threshold = math.nan if self.threshold is None else self.threshold
        return Outcome(self.vote(), self.tokens, self.num_started, self.num_stopped, self.num_aborted, threshold, steps)

    def _is_over(self, number: int) -> bool:
        return number < self.num_started and number not in self.running


def warmup_threshold(lowest_N: Sequence[float], keep_top_percent: float) -> float:
    """Percentile of the lowest evidence of warm-up traces; -inf, which stops nobody, where none showed any."""
    known_N = np.asarray(lowest_N, float)
    known_N = known_N[~np.isnan(known_N)]
    return float(top_threshold(known_N, keep_top_percent)) if known_N.size else -math.inf
