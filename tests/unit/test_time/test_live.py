"""Strategies on an engine that plays recorded traces: which rollouts stop, and the same outcome as the replay."""

import math
from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from arrol.engines.scripted import ScriptedEngine
from arrol.errors import ConfigError
from arrol.test_time.live import Ballot, LiveSessions
from arrol.test_time.replay import Traces, probe_evidence, replay
from arrol.test_time.strategies import Strategy, early_consensus, fixed_traces, head_stop
from arrol.test_time.voting import Ballots
from arrol.types import (
    LEAST_SURVIVAL,
    Completion,
    FinishReason,
    GroupRequest,
    ProbeEvent,
    Prompt,
    Reason,
    RolloutId,
    SamplingParams,
)

PROBES = (4, 8)


class Plain:
    """An estimator whose score is the feature and whose quality is the score."""

    version = 3

    def scores(self, features_CF, probe):
        return features_CF[:, 0]

    def quality(self, score_C, probe):
        return np.asarray(score_C)


class Playing:
    """An engine of recorded traces: ``lengths[group][index]`` tokens, ``qualities[group][index]`` by probe."""

    def __init__(self, lengths, qualities, rows=99):
        self.lengths, self.qualities, self.rows = lengths, qualities, rows

    def generate(self, requests, params, *, seed, controller=None, more=None):
        requests, done, written, clock = list(requests), {}, {}, 0
        queue = deque(self._opened(requests, controller))
        news = []
        while queue or written or news:
            if news:
                fresh = list(more([(i, done[i]) for i in news])) if more else []
                requests += fresh
                queue.extend(self._opened(fresh, controller))
                news = []
            while queue and len(written) < self.rows:
                written[queue.popleft()] = 0
            events = [ProbeEvent(i, PROBES.index(n), self._features(i, n)) for i, n in written.items() if n in PROBES]
            stops = controller.probed(events) if controller and events else []
            self._end(dict.fromkeys(stops, FinishReason.PRUNED), written, done, news)
            for i in written:
                written[i] += 1
            ended = [i for i, n in written.items() if n == self.lengths[i.group][i.index]]
            self._end(dict.fromkeys(ended, FinishReason.STOP), written, done, news)
            clock += 1
            if controller:
                controller.finished(ended)
                self._end(dict.fromkeys(controller.tick(float(clock)), FinishReason.PRUNED), written, done, news)
        return [[done[i] for i in request.rollout_ids] for request in requests]

    def _opened(self, requests, controller):
        for request in requests:
            if controller:
                controller.open(request.step, request.group, request.size, prune=request.prune)
        return [i for request in requests for i in request.rollout_ids]

    def _features(self, i, length):
        return np.array([self.qualities[i.group][i.index].get(length, math.nan)])

    def _end(self, reasons, written, done, news):
        for i in [i for i in reasons if i in written]:
            count = written.pop(i)
            done[i] = Completion((7,) * count, np.zeros(count), reasons[i])
            news.append(i)


def recorded(seed, groups=3, count=10):
    """Lengths, qualities at the probes reached, answers."""
    stream = np.random.default_rng(seed)
    lengths = stream.integers(1, 14, (groups, count))
    qualities = [[{p: float(stream.random()) for p in PROBES if p < n} for n in row] for row in lengths]
    return lengths.tolist(), qualities, stream.integers(-1, 3, (groups, count))


def run(strategy, lengths, qualities, answers, rows=99):
    prompts = [Prompt(str(g), (1,), "", "") for g in range(len(lengths))]
    final = np.linspace(0.1, 0.9, len(lengths[0]))

    def read(i, completion):
        return Ballot(int(answers[i.group][i.index]), quality=final[i.index])

    live = LiveSessions(strategy, prompts, read, estimator=Plain(), probe_tokens=PROBES, min_kept=0)
    engine = Playing(lengths, qualities, rows)
    groups = engine.generate(live.first(), SamplingParams(99), seed=0, controller=live, more=live)
    return live.outcomes(), groups, final


@pytest.mark.parametrize(
    "strategy",
    [
        fixed_traces(10, "quality"),
        head_stop(10, stop_quality=0.4),
        head_stop(10, keep_top_percent=50, warmup_traces=4),
        replace(head_stop(9, keep_top_percent=70, warmup_traces=3), lenient=False),
        Strategy(10, "majority", at_once=3, stop_below=0.3),
    ],
    ids=range(5),
)
def test_live_is_the_replay(strategy):
    for seed in range(6):
        lengths, qualities, answers = recorded(seed)
        outcomes, groups, final = run(strategy, lengths, qualities, answers)
        for g, outcome in enumerate(outcomes):
            evidence_N = [probe_evidence(quality_at) for quality_at in qualities[g]]
            traces = Traces(Ballots(answers[g], quality_N=final), np.array(lengths[g]), evidence_N)
            assert replace(replay(strategy, traces), steps=0) == outcome
        spent = sum(completion.num_tokens for group in groups for completion in group)
        assert spent == sum(outcome.tokens.total for outcome in outcomes)


def test_rows_that_are_scarce_change_no_outcome():
    strategy = head_stop(10, keep_top_percent=50, warmup_traces=4)
    for rows in (1, 4, 13):
        assert run(strategy, *recorded(1), rows=rows)[0] == run(strategy, *recorded(1))[0]


def test_a_consensus_stops_the_rest_and_its_tokens_are_counted():
    lengths, qualities = [[2, 3, 12, 13, 14]], [[{}, {}, {4: 0.9}, {4: 0.9}, {4: 0.9}]]
    strategy = replace(fixed_traces(5), consensus=1.0, min_traces=2)
    (outcome,), (group,), _ = run(strategy, lengths, qualities, [[1, 1, 0, 0, 0]])
    assert outcome.vote == (1, 1.0, 2, False)
    assert outcome.num_aborted == 3
    assert [c.finish_reason for c in group] == ["stop"] * 2 + ["pruned"] * 3
    assert outcome.tokens.finished == 5
    assert outcome.tokens.aborted == sum(c.num_tokens for c in group[2:]) == 12  # noticed with one token more


def test_early_consensus_asks_for_traces_one_by_one():
    (outcome,), groups, _ = run(
        early_consensus(6, min_traces=2, consensus=1.0), [[2, 3, 3, 9, 9, 9]], [[{}] * 6], [[1, 0, 1, 1, 1, 1]]
    )
    assert outcome.num_started == 6
    assert [len(group) for group in groups] == [2, 1, 1, 1, 1]
    assert outcome.vote.num_votes == 6


PROMPT = Prompt("a", (1,), "", "")
DONE = Completion((7,), np.zeros(1), FinishReason.STOP)


def started(strategy, **options):
    live = LiveSessions(
        strategy, [PROMPT], lambda i, c: Ballot(0, quality=0.5), estimator=Plain(), probe_tokens=PROBES, **options
    )
    live.first()
    return live


def event(index, quality, probe=0):
    return ProbeEvent(RolloutId(0, 0, index), probe, None, quality)


class TestAsController:
    def test_stops_are_certain_and_recorded(self):
        live = started(head_stop(3, stop_quality=0.5))
        assert live.probed([event(2, 0.4), event(0, 0.5), event(1, math.nan)]) == [RolloutId(0, 0, 2)]
        kept, blind, stopped = live.decisions(0, 0)
        assert (kept.reason, kept.survival, kept.quality, kept.version) == (Reason.THRESHOLD, 1.0, 0.5, 3)
        assert (blind.reason, blind.keep) == (Reason.NO_SCORE, True)
        assert (stopped.reason, stopped.keep, stopped.survival) == (Reason.THRESHOLD, False, LEAST_SURVIVAL)

    def test_the_same_probe_twice_and_a_stopped_rollout_count_once(self):
        live = started(head_stop(2, stop_quality=0.5), min_kept=0)
        assert live.probed([event(0, 0.4), event(0, 0.4)]) == [RolloutId(0, 0, 0)]
        assert live.probed([event(0, 0.1, probe=1)]) == []
        live.probed([event(1, 0.9)])
        assert live.probed([event(1, 0.1)]) == []  # a preempted request is scored again
        assert live.probed([event(1, 0.1, probe=1)]) == [RolloutId(0, 0, 1)]

    def test_the_last_one_is_kept(self):
        live = started(head_stop(2, stop_quality=0.5))
        assert live.probed([event(1, 0.1), event(0, 0.1)]) == [RolloutId(0, 0, 0)]
        assert live.decision(RolloutId(0, 0, 1)).reason is Reason.FLOOR

    def test_an_end_or_a_failure_stops_no_sibling(self):
        live = started(head_stop(2, stop_quality=0.5))
        assert live.finished([RolloutId(0, 0, 0)]) == live.lost([RolloutId(0, 0, 1)]) == []
        assert live.decision(RolloutId(0, 0, 0)) is None

    def test_a_warm_up_is_scored_and_never_stopped(self):
        live = started(head_stop(4, keep_top_percent=50, warmup_traces=2))
        assert live.probed([event(0, 0.2), event(1, 0.6)]) == []
        assert live.probed([event(0, 0.3, probe=1)]) == []
        assert [decision.reason for decision in live.decisions(0, 0)] == [Reason.WARMUP] * 2
        live([(RolloutId(0, 0, 0), DONE), (RolloutId(0, 0, 1), DONE)])  # lowest .2 and .6: the threshold is .4
        assert live.probed([event(3, 0.39), event(2, 0.41)]) == [RolloutId(0, 0, 3)]

    def test_after_a_consensus_the_rest_is_named_until_it_has_ended(self):
        live = started(replace(fixed_traces(3), consensus=1.0))
        assert live.tick(1.0) == []
        live([(RolloutId(0, 0, 1), DONE)])
        assert live.tick(2.0) == live.tick(3.0) == [RolloutId(0, 0, 0), RolloutId(0, 0, 2)]
        live([(RolloutId(0, 0, 0), DONE), (RolloutId(0, 0, 2), replace(DONE, finish_reason=FinishReason.PRUNED))])
        assert live.tick(4.0) == []
        assert live.outcomes()[0].num_aborted == 2


@pytest.mark.parametrize("probes", [(8, 4), (0, 4), (4, 4)])
def test_probes_ascend(probes):
    with pytest.raises(ConfigError, match=r"probe_tokens = .*: give ascending completion lengths from 1"):
        LiveSessions(fixed_traces(1), [], lambda i, c: Ballot(0), estimator=Plain(), probe_tokens=probes)


@pytest.mark.parametrize(
    ("strategy", "given"),
    [
        (head_stop(2, stop_quality=0.5), {}),
        (fixed_traces(2), {"estimator": Plain()}),
        (fixed_traces(2), {"probe_tokens": (4,)}),
    ],
)
def test_estimator_and_probes_belong_together(strategy, given):
    message = r"probe_tokens = .*: give them together with an estimator; a strategy with a threshold needs both"
    with pytest.raises(ConfigError, match=message):
        LiveSessions(strategy, [PROMPT], lambda i, c: Ballot(0), **given)


def test_the_public_double_drives_it():
    strategy = head_stop(4, stop_quality=0.5)
    live = LiveSessions(
        strategy, [PROMPT], lambda i, c: Ballot(i.index, quality=0.5), estimator=Plain(), probe_tokens=PROBES
    )
    engine = ScriptedEngine(lambda i: [7] * (3 + 2 * i.index), lambda i, length: np.array([0.2 * i.index]))
    (group,) = engine.generate(live.first(), SamplingParams(99), seed=0, controller=live, more=live)
    (outcome,) = live.outcomes()
    # Lengths 3, 5, 7, 9; the first ends before the probe at 4, two are stopped there, quality .6 runs on.
    assert [completion.num_tokens for completion in group] == [3, 4, 4, 9]
    assert (outcome.tokens.finished, outcome.tokens.stopped) == (12, 8)
    assert (outcome.answer, outcome.vote.num_votes, outcome.vote.is_tied) == (0, 2, True)


class TestAsCallback:
    def test_the_warm_up_is_a_wave_that_is_not_pruned(self):
        strategy = head_stop(5, keep_top_percent=50, warmup_traces=2)
        live = LiveSessions(
            strategy, [PROMPT], lambda i, c: Ballot(0, quality=0.5), estimator=Plain(), probe_tokens=PROBES
        )
        (warmup,) = live.first()
        assert warmup == GroupRequest(0, 0, PROMPT, 2, first=0, prune=False)
        assert live([(RolloutId(0, 0, 1), DONE)]) == []
        assert live([(RolloutId(0, 0, 0), DONE)]) == [GroupRequest(0, 0, PROMPT, 3, first=2, prune=True)]

    def test_a_failed_rollout_is_counted_and_not_read(self):
        live = LiveSessions(fixed_traces(2), [PROMPT], lambda i, c: Ballot(1 // (1 - i.index)))
        live.first()
        bad = Completion((7, 7), np.zeros(2), FinishReason.ERROR)
        good = Completion((7,), np.zeros(1), FinishReason.LENGTH)
        assert live([(RolloutId(0, 0, 1), bad), (RolloutId(0, 0, 0), good)]) == []
        (outcome,) = live.outcomes()
        assert (outcome.answer, outcome.vote.num_votes) == (1, 1)
        assert (outcome.tokens.finished, outcome.tokens.aborted, outcome.num_aborted) == (1, 2, 1)
