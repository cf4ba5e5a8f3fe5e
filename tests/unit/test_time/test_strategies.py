"""The state machine alone: which traces start, stop and vote, the bill of tokens, and which settings are refused."""

import math
from dataclasses import replace

import numpy as np
import pytest

from arrol.errors import ConfigError
from arrol.test_time.strategies import (
    Session,
    Strategy,
    Tokens,
    deepconf_online,
    early_consensus,
    fixed_traces,
    head_stop,
    warmup_threshold,
)
from arrol.test_time.voting import Ballots


def session(strategy, answers, confidences=None):
    """A session whose traces answer this, in order of their start."""
    confidences = np.ones(len(answers)) if confidences is None else np.array(confidences, float)
    full = Ballots(np.array(answers), confidence_N=confidences, quality_N=np.minimum(confidences, 1.0))
    return Session(strategy, lambda numbers: full.take(np.array(numbers, int)))


class TestFixed:
    def test_all_traces_start_at_once_run_and_vote(self):
        run = session(fixed_traces(3), [5, 2, 5])
        assert run.starts() == [0, 1, 2]
        assert run.starts() == []
        for number, tokens in ((1, 10), (0, 20), (2, 30)):
            run.finished(number, tokens)
            assert not run.look()
        result = run.outcome()
        assert result.answer == 5
        assert result.tokens == Tokens(finished=60)
        assert (result.num_started, result.num_stopped, result.num_aborted) == (3, 0, 0)
        assert result.threshold == -math.inf


class TestDeepConf:
    def warmed_up(self, lenient=True):
        """Lowest windows 1, 2, 3, 4; eta = 50, so s = 2.5: the last two of the warm-up vote."""
        strategy = replace(deepconf_online(7, keep_top_percent=50, warmup_traces=4), lenient=lenient)
        run = session(strategy, [0, 0, 1, 1, 0, 0, 0], [1, 2, 3, 4, 9, 9, 1])
        assert run.starts() == [0, 1, 2, 3]
        for number in (3, 1, 0):
            run.finished(number, 10, number + 1.0)
            assert run.threshold is None
            assert run.starts() == []
        run.finished(2, 10, 3.0)
        return run

    def test_later_traces_wait_for_the_end_of_the_warm_up(self):
        run = self.warmed_up()
        assert run.threshold == 2.5
        assert run.starts() == [4, 5, 6]

    def test_stopped_traces_never_vote(self):
        run = self.warmed_up()
        run.starts()
        run.stopped(4, 6, overshoot=2)
        run.stopped(5, 5)
        run.stopped(6, 4)
        result = run.outcome()
        assert run.voters() == [2, 3]
        assert result.vote == (1, 1.0, 2, False)
        assert result.tokens == Tokens(warmup=40, stopped=15, overshoot=2)
        assert result.tokens.total == 55
        assert result.num_stopped == 3

    def test_later_traces_that_ended_vote_with_their_lowest_window(self):
        run = self.warmed_up()
        run.starts()
        run.finished(4, 8, 9.0)
        run.stopped(5, 5)
        run.finished(6, 7, 1.0)  # short: never stopped, though under s
        assert run.voters() == [2, 3, 4, 6]
        assert run.vote().share == pytest.approx(10 / 17)  # 9 + 1 against 3 + 4
        strict = self.warmed_up(lenient=False)
        strict.starts()
        strict.finished(4, 8, 9.0)
        strict.stopped(5, 5)
        strict.finished(6, 7, 1.0)
        assert strict.voters() == [2, 3, 4]

    def test_sixteen_of_two_hundred_and_fifty_six_by_default(self):
        strategy = deepconf_online()
        assert (strategy.max_traces, strategy.warmup_traces, strategy.keep_top_percent) == (256, 16, 10)
        assert strategy.rule == "confidence"
        assert strategy.consensus is None

    def test_warm_up_traces_without_evidence_vote_and_set_no_threshold(self):
        assert warmup_threshold([math.nan, 1.0, 3.0], 50) == 2.0
        assert warmup_threshold([math.nan, math.nan], 50) == -math.inf
        run = session(head_stop(3, keep_top_percent=10, warmup_traces=3), [0, 1, 1], [0.9, 0.2, 0.3])
        run.starts()
        for number, lowest in enumerate((math.nan, 0.2, 0.3)):
            run.finished(number, 5, lowest)
        assert run.threshold == pytest.approx(0.29)
        assert run.voters() == [0, 2]


class TestConsensus:
    def test_it_ends_with_enough_votes_that_agree(self):
        run = session(early_consensus(9, min_traces=3, consensus=0.75), [4, 4, 7, 4, 4, 4, 4, 4, 4])
        assert run.starts() == [0, 1, 2]
        run.finished(0, 5)
        assert not run.look()  # unanimous, but one vote of three
        assert run.starts() == [3]
        run.finished(1, 5)
        run.finished(2, 5)
        assert not run.look()  # 2 of 3
        assert run.starts() == [4, 5]
        run.finished(3, 5)
        assert run.look()  # 3 of 4
        assert run.starts() == []
        run.aborted(4, 2)
        run.finished(5, 3)  # it ended too late
        result = run.outcome()
        assert result.vote == (4, 0.75, 4, False)
        assert result.tokens == Tokens(finished=20, aborted=5)
        assert (result.num_started, result.num_aborted) == (6, 2)

    def test_it_waits_for_the_warm_up(self):
        strategy = replace(deepconf_online(4, keep_top_percent=90, warmup_traces=2), consensus=0.5)
        run = session(strategy, [1, 1, 1, 1])
        run.starts()
        run.finished(0, 5, 1.0)
        assert not run.look()
        run.finished(1, 5, 1.0)
        assert run.look()

    def test_unreadable_traces_make_no_consensus(self):
        run = session(early_consensus(4, min_traces=2, consensus=0.5), [-1, -1, 3, 3])
        assert run.starts() == [0, 1]
        for number in range(3):
            run.finished(number, 1)
            assert not run.look()
            assert len(run.starts()) == (number < 2)
        run.finished(3, 1)
        assert run.look()


def test_the_budget_keeps_traces_from_starting():
    run = session(Strategy(5, at_once=1, token_budget=10), [0] * 5)
    assert run.starts() == [0]
    run.finished(0, 9)
    assert run.starts() == [1]
    run.finished(1, 9)
    assert run.starts() == []
    assert run.outcome().tokens.total == 18  # a driver without a clock cannot cut inside a trace


def test_without_a_voter_there_is_no_answer():
    run = session(head_stop(2, stop_quality=0.5), [0, 0])
    run.starts()
    run.stopped(0, 3)
    run.aborted(1, 3)
    assert run.outcome().vote == (-1, 0.0, 0, False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fixed_traces(0), "max_traces = 0: give a whole number from 1"),
        (lambda: fixed_traces(2, "mode"), "vote = 'mode'"),
        (lambda: early_consensus(4, min_traces=5), "max_traces = 4: give a whole number from 5"),
        (lambda: deepconf_online(8, warmup_traces=16), "max_traces = 8: give a whole number from 16"),
        (lambda: deepconf_online(32, keep_top_percent=0), "keep_top_percent = 0"),
        (lambda: Strategy(8, keep_top_percent=10), "warmup_traces = 0: a threshold from the warm-up needs both"),
        (lambda: Strategy(8, warmup_traces=2), "keep_top_percent = None"),
        (lambda: Strategy(8, keep_top_percent=10, warmup_traces=2, stop_below=0.1), "stop_below = 0.1"),
        (lambda: Strategy(8, stop_below=math.nan), "stop_below = nan"),
        (lambda: Strategy(8, keep_top_percent=10, warmup_traces=-1), "warmup_traces = -1: give a whole number from 0"),
        (lambda: Strategy(8, consensus=1.5), "consensus = 1.5"),
        (lambda: Strategy(8, token_budget=0), "token_budget = 0"),
        (lambda: head_stop(8), "stop_quality = None: give either stop_quality or keep_top_percent"),
        (lambda: head_stop(8, stop_quality=0.2, keep_top_percent=50, warmup_traces=2), "stop_quality = 0.2"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
