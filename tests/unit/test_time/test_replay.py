"""Replay by hand, against a token-by-token simulation, and its bill."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrol.errors import ConfigError, DataError
from arrol.test_time.replay import (
    Evidence,
    Traces,
    at_accuracy,
    at_tokens,
    orderings,
    probe_evidence,
    replay,
    replay_table,
    window_evidence,
)
from arrol.test_time.strategies import (
    Strategy,
    Tokens,
    deepconf_online,
    early_consensus,
    fixed_traces,
    head_stop,
    warmup_threshold,
)
from arrol.test_time.voting import Ballots, vote


def confidence_traces(answer_N, confidences_NT, window, every=1):
    """Traces for DeepConf: the lowest window is evidence and weight."""
    evidence_N = [window_evidence(confidence_T, window, every) for confidence_T in confidences_NT]
    ballots = Ballots(answer_N, confidence_N=np.array([evidence.lowest for evidence in evidence_N]))
    return Traces(ballots, np.array([len(confidence_T) for confidence_T in confidences_NT]), evidence_N)


class TestEvidence:
    def test_one_full_window_under_the_threshold_stops(self):
        # Windows of 2, ending at 2..6: 3, 4, 7, 4.5, 2
        evidence = window_evidence([4, 2, 6, 8, 1, 3, 9, 9], window=2)
        assert evidence.stop(3.5, 8) == (2, 0)
        assert evidence.stop(3.0, 8) == (6, 0)  # under, not at
        assert evidence.stop(2.0, 8) is None
        assert evidence.lowest == 2.0

    def test_only_what_was_written_counts(self):
        trace = np.random.default_rng(0).gamma(3.0, size=200)
        for threshold in np.quantile(trace, [0.1, 0.2, 0.3, 0.4]):
            found = window_evidence(trace, window=8).stop(threshold, 200)
            expected = next((t for t in range(8, 200) if trace[t - 8 : t].mean() < threshold), None)
            assert found == (None if expected is None else (expected, 0))
            if expected is not None:  # what comes later changes nothing
                future = np.concatenate([trace[:expected], np.full(200 - expected, 1e3)])
                assert window_evidence(future, window=8).stop(threshold, 200) == found

    def test_a_short_trace_is_never_stopped_and_its_mean_is_its_lowest(self):
        evidence = window_evidence([1.0, 3.0], window=4)
        assert evidence.stop(100.0, 2) is None
        assert evidence.lowest == 2.0

    def test_what_has_ended_is_not_stopped(self):
        assert window_evidence([5.0, 5.0, 0.0], window=2).stop(3.0, 3) is None
        assert probe_evidence({4: 0.1}).stop(0.5, 4) is None
        assert probe_evidence({4: 0.1}).stop(0.5, 5) == (4, 0)

    def test_chunks_delay_the_stop_and_the_delay_is_counted(self):
        evidence = window_evidence([4, 2, 6, 8, 1, 3, 9, 9], window=2, every=4)
        assert evidence.stop(3.5, 8) == (4, 2)
        assert evidence.stop(3.0, 9) == (8, 2)
        assert evidence.stop(3.0, 8) is None  # ends with that chunk

    def test_probes_count_by_their_lowest_so_far(self):
        evidence = probe_evidence({64: 0.2, 16: 0.5, 32: 0.6, 48: math.nan})
        assert evidence.stop(0.55, 100) == (16, 0)
        assert evidence.stop(0.4, 100) == (64, 0)
        assert evidence.stop(0.2, 100) is None
        assert evidence.lowest == 0.2
        assert math.isnan(probe_evidence({16: math.nan}).lowest)
        assert probe_evidence({}).stop(1.0, 100) is None

    def test_chunks_are_at_least_one_token(self):
        with pytest.raises(ConfigError, match="every = 0"):
            probe_evidence({1: 0.5}, every=0)


def recorded(seed, count=12, longest=40, window=4):
    """Traces of random length and confidence; class 0 is right."""
    stream = np.random.default_rng(seed)
    confidences = [stream.gamma(3.0, size=stream.integers(1, longest)) for _ in range(count)]
    return confidence_traces(stream.integers(-1, 3, count), confidences, window), confidences


class TestByHand:
    def test_deepconf(self):
        # Windows of 1. Warm-up lows 1, 2, 3, 4 and eta = 50: s = 2.5.
        confidences = [[1, 9], [2, 9], [3, 9], [4, 9], [9, 9, 2, 9, 9], [9, 9, 9], [9, 2, 9]]
        traces = confidence_traces(np.array([0, 0, 1, 1, 0, 0, 0]), confidences, window=1)
        result = replay(deepconf_online(7, keep_top_percent=50, warmup_traces=4), traces)
        assert result.threshold == 2.5
        assert result.tokens == Tokens(warmup=8, stopped=3 + 2, finished=3)
        assert result.vote == (0, 9 / 16, 3, False)  # 9 against 3 + 4
        assert (result.num_started, result.num_stopped, result.steps) == (7, 2, 2 + 3)

    def test_eta_ten_keeps_a_tenth_of_the_warm_up(self):
        confidences = [[float(i)] * 3 for i in range(1, 21)]
        traces = confidence_traces(np.zeros(20, int), confidences, window=1)
        # percentile 90 of 1..20 lies at place 17.1, percentile 10 at place 1.9
        low = replay(deepconf_online(20, keep_top_percent=10, warmup_traces=20), traces)
        high = replay(deepconf_online(20, keep_top_percent=90, warmup_traces=20), traces)
        assert (low.threshold, low.vote.num_votes) == (pytest.approx(18.1), 2)
        assert (high.threshold, high.vote.num_votes) == (pytest.approx(2.9), 18)

    def test_head(self):
        evidence_N = [probe_evidence(q) for q in ({2: 0.9, 4: 0.1}, {2: 0.4}, {}, {2: 0.3, 4: 0.8})]
        ballots = Ballots(np.array([0, 1, 1, 0]), quality_N=np.array([0.9, 0.6, 0.1, 0.8]))
        traces = Traces(ballots, np.array([6, 3, 1, 9]), evidence_N)
        result = replay(head_stop(4, stop_quality=0.35), traces)
        assert result.tokens == Tokens(stopped=4 + 2, finished=3 + 1)
        assert result.vote == (1, 1.0, 2, False)
        assert replay(head_stop(4, stop_quality=0.05), traces).vote.answer == 0

    def test_consensus_cuts_off_the_rest(self):
        traces = Traces(Ballots(np.array([3, 3, 3, 5])), np.array([4, 6, 10, 99]))
        result = replay(replace(fixed_traces(4), consensus=1.0, min_traces=2), traces)
        assert result.tokens == Tokens(finished=10, aborted=12)
        assert (result.answer, result.steps, result.num_aborted) == (3, 6, 2)
        one_by_one = replay(early_consensus(4, min_traces=2, consensus=1.0), traces)
        assert one_by_one.tokens == Tokens(finished=10, aborted=2)  # the third began at step 4
        assert one_by_one.num_started == 3

    def test_the_budget_is_exact(self):
        traces = Traces(Ballots(np.array([0, 1, 1])), np.array([3, 5, 7]))
        for budget in range(1, 20):
            result = replay(Strategy(3, token_budget=budget), traces)
            assert result.tokens.total == min(budget, 15)
        # 3 steps of three, then 2 tokens each, which ends the second trace: 3 + 5 + 5
        assert replay(Strategy(3, token_budget=13), traces).tokens == Tokens(finished=8, aborted=5)
        # one token less, and the first running trace gets the last
        assert replay(Strategy(3, token_budget=12), traces).tokens == Tokens(finished=8, aborted=4)
        assert replay(Strategy(3, token_budget=11), traces).tokens == Tokens(finished=3, aborted=8)

    def test_no_trace_starts_without_a_token_to_spend(self):
        traces = Traces(Ballots(np.array([0, 1, 1])), np.array([3, 5, 7]))
        result = replay(Strategy(3, at_once=2, token_budget=6), traces)
        assert (result.num_started, result.tokens) == (2, Tokens(finished=3, aborted=3))


def slowly(strategy, traces, order):
    """The same strategy, one token at a time, with nothing precomputed: (voters, tokens by fate, traces started)."""
    warmup, started, over, bill = strategy.warmup_traces, [], {}, Tokens()
    length, lows = {}, {}
    threshold = strategy.stop_below if strategy.stop_below is not None else -math.inf

    def voters():
        return [i for i in sorted(over) if over[i] == "ended" and (i >= warmup or not lows[i] < threshold)]

    def limit():
        return strategy.max_traces if all(i in over for i in range(warmup)) else warmup

    done = False
    while not done:
        if warmup and strategy.keep_top_percent and all(i in over for i in range(warmup)):
            threshold = warmup_threshold([lows[i] for i in range(warmup)], strategy.keep_top_percent)
        running = [i for i in started if i not in over]
        at_once = strategy.at_once or math.inf
        while len(started) < limit() and len(running) < at_once:
            started.append(len(started))
            running.append(started[-1])
            length[started[-1]] = 0
        if not running:
            break
        for i in running:
            row = order[i]
            length[i] += 1
            evidence = traces.evidence_N[row] if traces.evidence_N else Evidence()
            seen = evidence.value_E[evidence.tokens_E <= length[i]]
            if length[i] == traces.tokens_N[row]:
                over[i], lows[i] = "ended", evidence.lowest
                name = "warmup" if i < warmup else "finished"
                setattr(bill, name, getattr(bill, name) + length[i])
            elif i >= warmup and seen.size and seen.min() < threshold:
                over[i] = "stopped"
                bill.stopped += length[i]
        if strategy.consensus and all(i in over for i in range(warmup)):
            if warmup and strategy.keep_top_percent:
                threshold = warmup_threshold([lows[i] for i in range(warmup)], strategy.keep_top_percent)
            result = vote(traces.ballots.take(order[np.array(voters(), int)]), strategy.rule)
            done = result.num_votes >= strategy.min_traces and result.share >= strategy.consensus - 1e-12
            if done:
                bill.aborted += sum(length[i] for i in started if i not in over)
    return voters(), bill, len(started)


STRATEGIES = [
    fixed_traces(12),
    Strategy(9, at_once=4),
    deepconf_online(12, keep_top_percent=50, warmup_traces=4),
    deepconf_online(12, keep_top_percent=90, warmup_traces=2),
    replace(deepconf_online(12, keep_top_percent=50, warmup_traces=4), consensus=0.8, min_traces=3, at_once=4),
    replace(deepconf_online(12, keep_top_percent=50, warmup_traces=4), at_once=2),
    Strategy(12, "confidence", stop_below=1.5),
    early_consensus(12, min_traces=2, consensus=0.9),
    replace(early_consensus(10, min_traces=3, consensus=0.7), rule="confidence"),
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=range(len(STRATEGIES)))
def test_it_is_the_token_by_token_simulation(strategy):
    for seed in range(12):
        traces, _ = recorded(seed)
        for order in orderings(12, 2, seed=seed):
            result = replay(strategy, traces, order)
            voters, bill, started = slowly(strategy, traces, order)
            assert result.tokens == bill
            assert result.num_started == started
            assert result.vote == vote(traces.ballots.take(order[np.array(voters, int)]), strategy.rule)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(STRATEGIES),
    st.one_of(st.none(), st.integers(1, 300)),
    st.integers(1, 5),
)
def test_every_token_is_counted_and_the_stopped_never_vote(seed, strategy, budget, every):
    stream = np.random.default_rng(seed)
    confidences = [stream.gamma(3.0, size=stream.integers(1, 40)) for _ in range(12)]
    traces = confidence_traces(np.arange(12), confidences, window=4, every=every)  # answers name their trace
    result = replay(replace(strategy, token_budget=budget), traces, stream.permutation(12))
    spent = result.tokens
    assert spent.total == spent.warmup + spent.finished + spent.stopped + spent.aborted
    assert spent.total <= (math.inf if budget is None else budget)
    assert 0 <= spent.overshoot <= min(spent.stopped, result.num_stopped * (every - 1))
    assert spent.total <= sum(map(len, confidences))
    assert result.vote.num_votes <= result.num_started - result.num_stopped - result.num_aborted
    if result.answer >= 0:  # the winner ran to its end and, after a warm-up, lies over the threshold
        alone = window_evidence(confidences[result.answer], 4, every)
        assert alone.stop(result.threshold, len(confidences[result.answer])) is None
    if budget is not None and result.num_aborted and strategy.consensus is None:
        assert spent.total == budget


class TestTable:
    def test_strategies_meet_the_same_traces_in_the_same_orders(self):
        traces_P = [recorded(seed)[0] for seed in range(5)]
        right_P = [traces.ballots.answer_N == 0 for traces in traces_P]
        table = replay_table([fixed_traces(6), fixed_traces(6), fixed_traces(12)], traces_P, right_P, num_orderings=7)
        np.testing.assert_array_equal(table.right_AP[0], table.right_AP[1])
        np.testing.assert_array_equal(table.tokens_AP[2], [traces.tokens_N.sum() for traces in traces_P])
        assert table.right_AP.shape == (3, 5)
        one = replay_table([fixed_traces(6)], traces_P[:1], right_P[:1], num_orderings=7)
        assert one.tokens_AP[0, 0] == table.tokens_AP[0, 0]

    def test_orderings_are_permutations_and_keyed(self):
        orders = orderings(9, 20, seed=3, prompt=1)
        assert (np.sort(orders, axis=1) == np.arange(9)).all()
        assert (orders != orderings(9, 20, seed=3, prompt=2)).any()
        np.testing.assert_array_equal(orders, orderings(9, 20, seed=3, prompt=1))

    def test_curves_are_read_between_their_points(self):
        tokens_AP, right_AP = np.array([[10.0, 30.0], [40.0, 80.0]]), np.array([[0.0, 1.0], [0.5, 1.0]])
        # Means 20 and 60 tokens, accuracy .5 and .75: 30 tokens are a quarter of the way.
        np.testing.assert_allclose(at_tokens(tokens_AP, right_AP, 30), [0.125, 1.0])
        np.testing.assert_allclose(at_tokens(tokens_AP, right_AP, 60), [0.5, 1.0])
        np.testing.assert_allclose(at_accuracy(tokens_AP, right_AP, 0.5625), [17.5, 42.5])
        np.testing.assert_allclose(at_accuracy(tokens_AP, right_AP, 0.5), [10, 30])
        np.testing.assert_allclose(at_accuracy(tokens_AP, right_AP, 0.75), [40, 80])
        assert np.isnan(at_tokens(tokens_AP, right_AP, 61)).all()
        assert np.isnan(at_tokens(tokens_AP, right_AP, 19)).all()
        assert np.isnan(at_accuracy(tokens_AP, right_AP, 0.8)).all()

    def test_one_setting_is_a_point(self):
        tokens_AP, right_AP = np.array([[10.0, 30.0]]), np.array([[0.0, 1.0]])
        np.testing.assert_allclose(at_tokens(tokens_AP, right_AP, 20), [0, 1])
        np.testing.assert_allclose(at_accuracy(tokens_AP, right_AP, 0.5), [10, 30])

    def test_a_curve_that_falls_is_crossed_where_it_is_cheapest(self):
        tokens_AP, right_AP = np.array([[1.0], [2.0], [3.0]]), np.array([[0.2], [0.8], [0.4]])
        np.testing.assert_allclose(at_accuracy(tokens_AP, right_AP, 0.5), [1.5])


class TestRefusals:
    def test_more_traces_than_recorded(self):
        with pytest.raises(DataError, match="max_traces = 13: 12 are recorded; sample more or set it lower"):
            replay(fixed_traces(13), recorded(0)[0])

    def test_no_evidence_to_stop_by(self):
        bare = Traces(Ballots(np.array([0, 1])), np.array([3, 4]))
        with pytest.raises(DataError, match="evidence_N is empty"):
            replay(head_stop(2, stop_quality=0.5), bare)

    def test_arrays_that_do_not_fit(self):
        with pytest.raises(DataError, match=r"tokens_N of shape \(1,\)"):
            Traces(Ballots(np.array([0, 1])), np.array([3]))
        with pytest.raises(DataError, match="tokens_N"):
            Traces(Ballots(np.array([0, 1])), np.array([3, 0]))
        with pytest.raises(DataError, match="evidence_N of length 1: give none, or one for each of 2"):
            Traces(Ballots(np.array([0, 1])), np.array([3, 4]), [Evidence()])
        with pytest.raises(DataError, match="right_P of length 0"):
            replay_table([fixed_traces(1)], [Traces(Ballots(np.array([0])), np.array([3]))], [])
