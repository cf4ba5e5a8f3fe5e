"""Strategies on an engine that plays recorded traces: who is stopped, and the same outcome as the replay."""

import math
from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from arrol.engines.scripted import ScriptedEngine
from arrol.errors import ConfigError
from arrol.test_time.live import LEAST_SURVIVAL, HeadStop, Reading, Waves
from arrol.test_time.replay import Traces, probe_evidence, replay
from arrol.test_time.strategies import Strategy, early_consensus, fixed_traces, head_stop
from arrol.test_time.voting import Ballots
from arrol.types import Completion, FinishReason, GroupRequest, ProbeEvent, Prompt, Reason, RolloutId, SamplingParams

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
    controller = HeadStop(strategy, Plain(), PROBES, min_kept=0)
    final = np.linspace(0.1, 0.9, len(lengths[0]))
    waves = Waves(
        strategy,
        prompts,
        lambda i, c: Reading(int(answers[i.group][i.index]), quality=final[i.index]),
        controller=controller,
    )
    groups = Playing(lengths, qualities, rows).generate(
        waves.first(), SamplingParams(99), seed=0, controller=controller, more=waves
    )
    return waves.outcomes(), groups, controller, final


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
        outcomes, groups, _, final = run(strategy, lengths, qualities, answers)
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
    (outcome,), (group,), _, _ = run(strategy, lengths, qualities, [[1, 1, 0, 0, 0]])
    assert outcome.vote == (1, 1.0, 2, False)
    assert outcome.num_aborted == 3
    assert [c.finish_reason for c in group] == ["stop"] * 2 + ["pruned"] * 3
    assert outcome.tokens.finished == 5
    assert outcome.tokens.aborted == sum(c.num_tokens for c in group[2:]) == 12  # noticed with one token more


def test_early_consensus_asks_for_traces_one_by_one():
    (outcome,), groups, _, _ = run(
        early_consensus(6, min_traces=2, consensus=1.0), [[2, 3, 3, 9, 9, 9]], [[{}] * 6], [[1, 0, 1, 1, 1, 1]]
    )
    assert outcome.num_started == 6
    assert [len(group) for group in groups] == [2, 1, 1, 1, 1]
    assert outcome.vote.num_votes == 6


def opened(strategy, size, **options):
    controller = HeadStop(strategy, Plain(), PROBES, **options)
    controller.open(0, 0, size)
    return controller


def event(index, quality, probe=0):
    return ProbeEvent(RolloutId(0, 0, index), probe, None, quality)


class TestHeadStop:
    def test_stops_are_certain_and_recorded(self):
        controller = opened(head_stop(3, stop_quality=0.5), 3)
        assert controller.probed([event(2, 0.4), event(0, 0.5), event(1, math.nan)]) == [RolloutId(0, 0, 2)]
        kept, blind, stopped = controller.decisions(0, 0)
        assert (kept.reason, kept.survival, kept.quality, kept.version) == (Reason.THRESHOLD, 1.0, 0.5, 3)
        assert (blind.reason, blind.keep) == (Reason.NO_SCORE, True)
        assert (stopped.reason, stopped.keep, stopped.survival) == (Reason.THRESHOLD, False, LEAST_SURVIVAL)

    def test_the_same_probe_twice_and_the_stopped_count_once(self):
        controller = opened(head_stop(2, stop_quality=0.5), 2, min_kept=0)
        assert controller.probed([event(0, 0.4), event(0, 0.4)]) == [RolloutId(0, 0, 0)]
        assert controller.probed([event(0, 0.1, probe=1)]) == []
        controller.probed([event(1, 0.9)])
        assert controller.probed([event(1, 0.1)]) == []  # a preempted request is scored again
        assert controller.probed([event(1, 0.1, probe=1)]) == [RolloutId(0, 0, 1)]

    def test_the_last_one_is_kept(self):
        controller = opened(head_stop(2, stop_quality=0.5), 2)
        assert controller.probed([event(1, 0.1), event(0, 0.1)]) == [RolloutId(0, 0, 0)]
        assert controller.decisions(0, 0)[1].reason is Reason.FLOOR

    def test_a_warm_up_is_judged_and_never_stopped(self):
        controller = opened(head_stop(4, keep_top_percent=50, warmup_traces=2), 2)
        assert controller.probed([event(0, 0.2), event(1, 0.6)]) == []
        controller.open(0, 0, 2)
        assert controller.probed([event(2, 0.1)]) == []  # too early: nobody knows the threshold
        assert [d.reason for d in controller.decisions(0, 0)] == [Reason.WARMUP] * 3
        controller.probed([event(0, 0.3, probe=1)])
        controller.finished([RolloutId(0, 0, 0), RolloutId(0, 0, 1)])
        assert controller.threshold(0, 0) == pytest.approx(0.4)
        assert controller.lowest(RolloutId(0, 0, 0)) == 0.2
        assert controller.probed([event(3, 0.39), event(2, 0.41, probe=1)]) == [RolloutId(0, 0, 3)]

    def test_the_host_may_spare_any_wave(self):
        controller = opened(head_stop(4, stop_quality=0.5), 2)
        controller.open(0, 0, 2, prune=False)
        assert controller.probed([event(i, 0.1) for i in range(4)]) == [RolloutId(0, 0, 0), RolloutId(0, 0, 1)]

    def test_a_cancelled_group_is_named_until_it_is_over(self):
        controller = opened(fixed_traces(3), 3)
        controller.finished([RolloutId(0, 0, 1)])
        assert controller.tick(1.0) == []
        controller.cancel(0, 0)
        assert controller.tick(2.0) == controller.tick(3.0) == [RolloutId(0, 0, 0), RolloutId(0, 0, 2)]
        controller.finished([RolloutId(0, 0, 0), RolloutId(0, 0, 2)])
        assert controller.tick(4.0) == []

    def test_unknown_groups_are_not_ours(self):
        assert HeadStop(fixed_traces(1), Plain(), PROBES).probed([event(0, 0.1)]) == []

    @pytest.mark.parametrize("probes", [(), (8, 4), (0, 4), (4, 4)])
    def test_probes_ascend(self, probes):
        with pytest.raises(ConfigError, match="probe_tokens = "):
            HeadStop(fixed_traces(1), Plain(), probes)


def test_it_drives_the_engine_that_everybody_tests_with():
    strategy = head_stop(4, stop_quality=0.5)
    controller = HeadStop(strategy, Plain(), PROBES)
    engine = ScriptedEngine(lambda i: [7] * (3 + 2 * i.index), lambda i, length: np.array([0.2 * i.index]))
    waves = Waves(strategy, [TestWaves.PROMPT], lambda i, c: Reading(i.index, quality=0.5), controller=controller)
    (group,) = engine.generate(waves.first(), SamplingParams(99), seed=0, controller=controller)
    assert waves([(RolloutId(0, 0, index), completion) for index, completion in enumerate(group)]) == []
    (outcome,) = waves.outcomes()
    # Lengths 3, 5, 7, 9; the first ends before the probe at 4, two are stopped there, quality .6 runs on.
    assert [completion.num_tokens for completion in group] == [3, 4, 4, 9]
    assert (outcome.tokens.finished, outcome.tokens.stopped) == (12, 8)
    assert (outcome.answer, outcome.vote.num_votes, outcome.vote.is_tied) == (0, 2, True)


class TestWaves:
    PROMPT = Prompt("a", (1,), "", "")

    def test_the_warm_up_is_a_wave_that_is_not_pruned(self):
        strategy = head_stop(5, keep_top_percent=50, warmup_traces=2)
        controller = HeadStop(strategy, Plain(), PROBES)
        waves = Waves(strategy, [self.PROMPT], lambda i, c: Reading(0, quality=0.5), controller=controller)
        (warmup,) = waves.first()
        assert warmup == GroupRequest(0, 0, self.PROMPT, 2, first=0, prune=False)
        controller.open(0, 0, 2, prune=False)
        done = Completion((7,), np.zeros(1), FinishReason.STOP)
        assert waves([(RolloutId(0, 0, 1), done)]) == []
        assert waves([(RolloutId(0, 0, 0), done)]) == [GroupRequest(0, 0, self.PROMPT, 3, first=2, prune=True)]

    def test_a_failed_rollout_is_paid_for_and_not_read(self):
        waves = Waves(fixed_traces(2), [self.PROMPT], lambda i, c: Reading(1 // (1 - i.index)))
        waves.first()
        bad = Completion((7, 7), np.zeros(2), FinishReason.ERROR)
        good = Completion((7,), np.zeros(1), FinishReason.LENGTH)
        assert waves([(RolloutId(0, 0, 1), bad), (RolloutId(0, 0, 0), good)]) == []
        (outcome,) = waves.outcomes()
        assert (outcome.answer, outcome.vote.num_votes) == (1, 1)
        assert (outcome.tokens.finished, outcome.tokens.aborted, outcome.num_aborted) == (1, 2, 1)

    def test_stops_need_their_controller(self):
        with pytest.raises(ConfigError, match="controller = None: this strategy stops rollouts"):
            Waves(head_stop(2, stop_quality=0.5), [self.PROMPT], lambda i, c: Reading(0))
