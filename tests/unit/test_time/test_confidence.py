"""Confidence of a trace by hand, by plain loops, and at the ends: short traces, one full window, tiny filters."""

import math

import numpy as np
import pytest

from arrol.errors import ConfigError, DataError
from arrol.test_time.confidence import (
    MEASURES,
    average,
    bottom,
    confidence_full,
    confidence_sampled,
    confidence_topk,
    keep_top_percent,
    lowest,
    tail,
    top_threshold,
    trace_confidence,
    window_means,
)


class TestTokens:
    def test_by_hand(self):
        # -(ln .5 + ln .25) / 2 = (ln 2 + ln 4) / 2 = 1.5 ln 2
        assert confidence_topk(np.log([[0.5, 0.25]])) == pytest.approx([1.5 * math.log(2)])
        assert confidence_full(np.log([[0.5, 0.25, 0.25]])) == pytest.approx([5 / 3 * math.log(2)])

    def test_peaked_is_more_confident_than_flat(self):
        flat_V, peaked_V = np.full(50, 0.02), np.array([0.951, *[0.001] * 49])
        for measure in (confidence_topk, confidence_full):
            flat, peaked = measure(np.log([flat_V[:20], peaked_V[:20]]))
            assert peaked > flat
        flat, peaked = (np.mean(confidence_sampled(np.log(p_V))[None] @ p_V) for p_V in (flat_V, peaked_V))
        assert peaked > flat
        assert flat == pytest.approx(0.02)  # sum of squares

    def test_full_and_topk_are_different_quantities(self):
        logprob_TV = np.log([[0.9, 0.06, 0.03, 0.01]])
        assert confidence_topk(logprob_TV[:, :2]) < confidence_full(logprob_TV)

    @pytest.mark.parametrize("values", [[[0.5, -1.0]], [[-np.inf, -1.0]], [[np.nan, -1.0]], [-1.0], [[]]])
    def test_what_is_no_table_of_logprobs_is_refused(self, values):
        for measure, name in ((confidence_topk, "logprobs_TK"), (confidence_full, "logprobs_TV")):
            with pytest.raises(DataError, match=name):
                measure(values)

    def test_rounding_above_zero_is_no_mistake(self):
        assert confidence_sampled([1e-8, -0.7])[0] == pytest.approx(1.0)


class TestTraces:
    TRACE = np.array([4.0, 2.0, 6.0, 8.0, 1.0, 3.0])
    """Windows of 2: 3, 4, 7, 4.5, 2. Windows of 4: 5, 4.25, 4.5."""

    def test_by_hand(self):
        np.testing.assert_allclose(window_means(self.TRACE, 2), [3, 4, 7, 4.5, 2])
        assert average(self.TRACE) == 4.0
        assert lowest(self.TRACE, 2) == 2.0
        assert lowest(self.TRACE, 4) == 4.25
        assert tail(self.TRACE, 2) == 2.0
        assert tail(self.TRACE, 4) == 4.5
        assert bottom(self.TRACE, 2) == 2.0  # a tenth of five windows is none: at least one

    def test_a_trace_shorter_than_the_window_is_one_window(self):
        for measure in MEASURES:
            assert trace_confidence(self.TRACE, measure, window=7) == 4.0
        np.testing.assert_allclose(window_means(self.TRACE, 2048), [4.0])

    def test_a_trace_as_long_as_the_window_has_one_full_window(self):
        np.testing.assert_allclose(window_means(self.TRACE, 6), [4.0])
        assert lowest(self.TRACE, 6) == bottom(self.TRACE, 6) == tail(self.TRACE, 6) == 4.0

    def test_bottom_takes_a_tenth_rounded_down(self):
        trace = np.arange(40.0)  # windows of one
        assert bottom(trace[:19], 1) == 0.0
        assert bottom(trace[:20], 1) == 0.5
        assert bottom(trace, 1) == 1.5

    def test_against_plain_loops(self):
        trace = np.random.default_rng(0).gamma(3.0, 4.0, 3000)
        direct = [trace[i : i + 256].mean() for i in range(3000 - 256 + 1)]
        np.testing.assert_allclose(window_means(trace, 256), direct, rtol=1e-12)
        assert bottom(trace, 256) == pytest.approx(np.mean(sorted(direct)[: len(direct) // 10]), rel=1e-12)

    def test_long_traces_lose_no_digits(self):
        trace = np.concatenate([np.full(300_000, 37.5), np.full(2048, 0.125)])
        assert lowest(trace) == pytest.approx(0.125, abs=1e-8)

    def test_unknown_measures_and_empty_traces_are_refused(self):
        with pytest.raises(ConfigError, match="measure = 'top': unknown; choose from average, bottom, lowest, tail"):
            trace_confidence(self.TRACE, "top")
        with pytest.raises(ConfigError, match="window = 0"):
            window_means(self.TRACE, 0)
        for trace in ([], [np.nan], [[1.0]]):
            with pytest.raises(DataError, match="confidence_T of shape"):
                lowest(trace)


class TestFilter:
    def test_ten_keeps_a_tenth_and_ninety_drops_one(self):
        value_N = np.random.default_rng(0).permutation(100).astype(float)
        assert sorted(value_N[keep_top_percent(value_N, 10)]) == list(range(90, 100))
        assert sorted(value_N[~keep_top_percent(value_N, 90)]) == list(range(10))
        assert keep_top_percent(value_N, 100).all()

    def test_the_threshold_is_numpys_percentile(self):
        stream = np.random.default_rng(1)
        for size in (1, 2, 3, 16, 31):
            value_N = stream.normal(size=size)
            for percent in (1, 10, 37.5, 90, 100):
                assert top_threshold(value_N, percent) == pytest.approx(
                    np.percentile(value_N, 100 - percent), abs=1e-12
                )

    def test_sixteen_warmup_traces_by_hand(self):
        # percentile 90 of 0..15 lies at place 13.5; percentile 10 at place 1.5
        assert top_threshold(np.arange(16.0), 10) == pytest.approx(13.5)
        assert top_threshold(np.arange(16.0), 90) == pytest.approx(1.5)

    def test_equal_values_stay_together(self):
        assert keep_top_percent(np.full(7, 0.3), 10).all()

    def test_only_tokens_that_count_are_counted(self):
        value_N, among_N = np.array([9.0, 1.0, 2.0, np.nan]), np.array([False, True, True, False])
        assert top_threshold(value_N, 50, among_N) == 1.5
        assert keep_top_percent(value_N, 50, among_N).tolist() == [False, False, True, False]
        assert not keep_top_percent(value_N, 50, np.zeros(4, bool)).any()

    def test_many_subsets_at_once(self):
        stream = np.random.default_rng(2)
        value_SN, among_SN = stream.normal(size=(30, 9)), stream.random((30, 9)) < 0.5
        together = top_threshold(value_SN, 30, among_SN)
        for row in range(30):
            assert together[row] == top_threshold(value_SN[row], 30, among_SN[row])

    def test_shares_are_percents_and_values_are_numbers(self):
        for percent in (0, -1, 101):
            with pytest.raises(ConfigError, match="keep_top_percent = "):
                keep_top_percent(np.arange(3.0), percent)
        with pytest.raises(DataError, match="values = nan"):
            keep_top_percent(np.array([1.0, np.nan]), 10)
