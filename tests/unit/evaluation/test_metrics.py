"""Intervals, pass@k, best-of-k and dead groups against counts by hand and against enumeration."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from arrol.errors import DataError
from arrol.evaluation.metrics import (
    Metric,
    avg_at_k,
    best_of_k,
    dead_group_frac,
    paired_difference,
    pass_at_k,
    summary,
)
from arrol.stats import bootstrap_interval, wilson_interval


class TestPassAtK:
    @pytest.mark.parametrize("size", range(1, 9))
    def test_it_counts_the_subsets_with_a_right_one(self, size):
        for right in range(size + 1):
            row = [1] * right + [0] * (size - right)
            for k in range(1, size + 1):
                subsets = list(combinations(row, k))
                expected = sum(max(subset) for subset in subsets) / len(subsets)
                assert pass_at_k([right], [size], k) == pytest.approx([expected], abs=1e-15)

    def test_it_is_the_published_estimator_for_every_count_up_to_64(self):
        for size in range(1, 65):
            right_P = np.arange(size + 1)
            for k in range(1, size + 1):
                exact = [1 - Fraction(math.comb(size - c, k), math.comb(size, k)) for c in range(size + 1)]
                np.testing.assert_allclose(pass_at_k(right_P, size, k), np.array(exact, float), rtol=0, atol=2e-15)

    def test_ten_thousand_samples_neither_overflow_nor_lose_digits(self):
        size, right_P = 10_000, np.array([0, 1, 17, 5000, 9999, 10_000])
        with np.errstate(all="raise", under="ignore"):
            for k in (1, 2, 100, 5000, 9999, 10_000):
                exact = [1 - Fraction(math.comb(size - int(c), k), math.comb(size, k)) for c in right_P]
                np.testing.assert_allclose(pass_at_k(right_P, size, k), np.array(exact, float), rtol=0, atol=1e-12)

    def test_edges(self):
        assert pass_at_k([0], [10], 5) == [0.0]
        assert pass_at_k([6, 10], [10, 10], 5).tolist() == [1.0, 1.0]  # n - c < k
        assert pass_at_k([3], [4], 2) == [1.0]
        value_K = [pass_at_k([3], [20], k)[0] for k in range(1, 21)]
        assert np.all(np.diff(value_K) >= 0)
        assert value_K[0] == pytest.approx(3 / 20)

    def test_prompts_may_have_different_numbers_of_samples(self):
        # 1 - C(2,2)/C(4,2) = 5/6; 1 - C(1,2)/C(2,2) = 1; 1 - C(6,2)/C(6,2) = 0
        assert pass_at_k([2, 1, 0], [4, 2, 6], 2) == pytest.approx([5 / 6, 1.0, 0.0])

    def test_it_is_unbiased_and_the_plug_in_is_not(self):
        # Mean over Binomial(6, .3) of the estimate is 1 - .7^3 exactly.
        chance_P = np.array([math.comb(6, c) * 0.3**c * 0.7 ** (6 - c) for c in range(7)])
        assert chance_P @ pass_at_k(np.arange(7), 6, 3) == pytest.approx(1 - 0.7**3, abs=1e-14)
        assert chance_P @ (1 - (1 - np.arange(7) / 6) ** 3) < 1 - 0.7**3 - 0.02

    @pytest.mark.parametrize(
        ("right", "samples", "k", "message"),
        [
            ([2, 2], [8, 4], 8, r"k = 8: prompt 1 has 4 samples; sample more"),
            ([2], [8], 0, r"k = \[0\]"),
            ([9], [8], 2, r"num_right = 9 of prompt 0: it has 8"),
            ([0.5], [8], 2, r"whole number per prompt"),
        ],
    )
    def test_what_cannot_be_is_refused(self, right, samples, k, message):
        with pytest.raises(DataError, match=message):
            pass_at_k(right, samples, k)


class TestBestOfK:
    @pytest.mark.parametrize("size", [1, 2, 5, 7])
    def test_it_is_the_mean_over_all_subsets(self, size):
        stream = np.random.default_rng(size)
        score_N, right_N = stream.permutation(size).astype(float), stream.random(size) < 0.5
        for k in range(1, size + 1):
            picked = [right_N[max(subset, key=lambda i: score_N[i])] for subset in combinations(range(size), k)]
            assert best_of_k([score_N], [right_N], [k])[0, 0] == pytest.approx(np.mean(picked), abs=1e-14)

    def test_equal_scores_share_their_chance(self):
        score_N, right_N = np.array([1.0, 1.0, 0.0, 1.0]), np.array([True, False, True, False])
        for k in range(1, 5):
            values = []
            for subset in combinations(range(4), k):
                best = [i for i in subset if score_N[i] == max(score_N[list(subset)])]
                values.append(np.mean(right_N[best]))
            assert best_of_k([score_N], [right_N], [k])[0, 0] == pytest.approx(np.mean(values), abs=1e-14)

    def test_a_perfect_score_is_pass_at_k_and_one_draw_is_the_average(self):
        right_N = np.array([True] * 3 + [False] * 9)
        perfect, useless = right_N.astype(float), np.random.default_rng(0).random(12)
        for k in (1, 2, 5, 12):
            assert best_of_k([perfect], [right_N], [k])[0] == pytest.approx(pass_at_k([3], [12], k))
        assert best_of_k([useless], [right_N], [1])[0] == pytest.approx(avg_at_k([3], [12]))
        assert best_of_k([np.zeros(12)], [right_N], [7])[0] == pytest.approx([0.25])

    def test_many_samples_and_scores_of_minus_infinity(self):
        score_N = np.concatenate([np.full(5000, -np.inf), np.arange(5000.0)])
        right_N = np.arange(10_000) >= 5000
        value_K = best_of_k([score_N], [right_N], [1, 2, 10_000])[0]
        assert value_K == pytest.approx([0.5, 1 - 0.5 * 4999 / 9999, 1.0], abs=1e-12)

    def test_what_cannot_be_is_refused(self):
        with pytest.raises(DataError, match=r"score of prompt 0: 1 scores, 2 verdicts"):
            best_of_k([[0.5]], [[True, False]], [1])
        with pytest.raises(DataError, match=r"score of prompt 0"):
            best_of_k([[0.5, np.nan]], [[True, False]], [1])
        with pytest.raises(DataError, match=r"k = 3: prompt 1 has 2 samples"):
            best_of_k([[0, 1, 2], [0, 1]], [[True, False, True], [True, True]], [3])


@pytest.mark.parametrize("right", range(6))
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_dead_groups_are_the_subsets_of_one_outcome(right, size):
    row = np.array([1.0] * right + [0.0] * (5 - right))
    subsets = list(combinations(row, size))
    expected = sum(min(subset) == max(subset) for subset in subsets) / len(subsets)
    assert dead_group_frac(row[None], size) == pytest.approx(expected if size > 1 else 1.0)
    with pytest.raises(DataError, match="k = 6"):
        dead_group_frac(row[None], 6)


class TestIntervals:
    def test_mean_and_bootstrap_over_prompts(self):
        value_P = np.linspace(0.1, 0.9, 40)
        metric = summary(value_P, seed=3)
        assert metric == Metric(pytest.approx(0.5), *bootstrap_interval(value_P, 3), 40)
        assert metric.low < 0.5 < metric.high

    def test_unanimous_prompts_keep_a_width(self):
        # A bootstrap of 30 equal values is a point; 30 of 30 prompts still leave Wilson's interval.
        assert summary(np.ones(30)) == Metric(1.0, *wilson_interval(30, 30), 30)
        assert summary(np.zeros(30)) == Metric(0.0, *wilson_interval(0, 30), 30)
        assert summary(np.full(30, 0.5)) == Metric(0.5, 0.5, 0.5, 30)

    def test_one_prompt_shows_no_spread(self):
        metric = summary([1.0])
        assert (metric.value, metric.num_prompts) == (1.0, 1)
        assert math.isnan(metric.low)
        assert math.isnan(metric.high)

    def test_pairs_are_much_tighter_than_two_intervals(self):
        stream = np.random.default_rng(0)
        easy_P = stream.random(200)  # difficulty moves both methods alike
        first_P, second_P = easy_P + 0.02 + stream.normal(0, 0.01, 200), easy_P
        difference = paired_difference(first_P, second_P)
        assert difference.value == pytest.approx(0.02, abs=0.003)
        assert 0.017 < difference.low < difference.high < 0.023
        assert summary(first_P).low < summary(second_P).high
        assert paired_difference(second_P, second_P) == Metric(0.0, 0.0, 0.0, 200)

    @pytest.mark.parametrize("values", [[], [0.5, np.nan], [[0.5]]])
    def test_what_cannot_be_is_refused(self, values):
        with pytest.raises(DataError, match="value_P of shape"):
            summary(values)

    def test_unequal_prompts_are_refused(self):
        with pytest.raises(DataError, match="give both on the same prompts"):
            paired_difference([0.5, 0.5], [0.5])
