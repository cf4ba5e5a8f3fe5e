"""Intervals against values worked out by hand or printed in tables."""

import math

import numpy as np
import pytest

from arrol.stats import (
    Interval,
    accuracy_with_interval,
    bisect_increasing,
    bootstrap_interval,
    incomplete_beta,
    mean_interval,
    student_t_quantile,
    wilson_interval,
)


class TestAccuracy:
    def test_one_sample_per_prompt_takes_wilsons_interval(self):
        reward_PG = np.array([1.0] * 30 + [0.0] * 70)[:, None]
        accuracy, low, high = accuracy_with_interval(reward_PG)
        assert accuracy == pytest.approx(0.3)
        assert (low, high) == pytest.approx((0.2189, 0.3958), abs=5e-4)

    def test_several_samples_take_a_bootstrap_over_prompts(self):
        reward_PG = np.repeat(np.array([[1.0], [0.0]] * 50), 8, axis=1)  # prompts are all right or all wrong
        accuracy, low, high = accuracy_with_interval(reward_PG)
        assert accuracy == 0.5
        assert 0.38 < low < 0.43  # 100 independent prompts, not 800 independent samples
        assert 0.57 < high < 0.62
        assert accuracy_with_interval(reward_PG) == (accuracy, low, high)

    def test_graded_rewards_keep_their_mean(self):
        assert accuracy_with_interval(np.array([[0.25], [0.75]]))[0] == 0.5


class TestWilson:
    def test_half_of_one_hundred_by_hand(self):
        # z = 1.959964, z^2 = 3.841459; middle stays 0.5; half = z sqrt(.25/100 + z^2/40000) / (1 + z^2/100)
        half = 1.9599639845 * math.sqrt(0.0025 + 3.8414588207 / 40000) / 1.038414588207
        assert wilson_interval(50, 100) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-9)
        assert wilson_interval(50, 100) == pytest.approx((0.40383, 0.59617), abs=1e-5)

    def test_published_example(self):
        # Newcombe 1998, table I: 81/263 -> 0.2553, 0.3662; 15/148 -> 0.0624, 0.1605
        assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
        assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)

    def test_no_right_answer_keeps_a_positive_upper_end(self):
        # Newcombe 1998: 0/20 -> 0, 0.1611; the closed form is z^2 / (n + z^2)
        low, high = wilson_interval(0, 20)
        assert low == 0.0
        assert high == pytest.approx(3.8414588207 / 23.8414588207)
        assert wilson_interval(20, 20) == pytest.approx((1 - high, 1.0))

    def test_nothing_sampled_says_nothing(self):
        assert wilson_interval(0, 0) == Interval(0.0, 1.0)

    def test_width_grows_with_the_level(self):
        narrow, wide = wilson_interval(3, 10, 0.5), wilson_interval(3, 10, 0.99)
        assert wide.low < narrow.low < 0.3 < narrow.high < wide.high

    @pytest.mark.parametrize(("right", "total"), [(-1, 5), (6, 5), (float("nan"), 5)])
    def test_impossible_counts_are_named(self, right, total):
        with pytest.raises(ValueError, match="right = "):
            wilson_interval(right, total)

    @pytest.mark.parametrize("level", [0.0, 1.0, 95])
    def test_level_is_a_share(self, level):
        with pytest.raises(ValueError, match="level = "):
            wilson_interval(1, 2, level)

    def test_coverage_averages_to_the_level(self):
        # Counts are a lattice, so coverage at one share wanders; over shares it averages to the level.
        stream = np.random.default_rng(0)
        shares = stream.uniform(0.05, 0.95, size=4000)
        ends = [wilson_interval(int(right), 40) for right in stream.binomial(40, shares)]
        inside = [low <= share <= high for share, (low, high) in zip(shares, ends, strict=True)]
        assert np.mean(inside) == pytest.approx(0.95, abs=0.012)


class TestStudent:
    @pytest.mark.parametrize(
        ("prob", "dof", "table"),
        [
            (0.975, 1, 12.7062047),
            (0.975, 2, 4.3026527),
            (0.975, 4, 2.7764451),
            (0.95, 9, 1.8331129),
            (0.995, 30, 2.7499957),
            (0.975, 120, 1.9799304),
            (0.9995, 3, 12.9239786),
            (0.5, 7, 0.0),
        ],
    )
    def test_quantiles_of_the_printed_table(self, prob, dof, table):
        assert student_t_quantile(prob, dof) == pytest.approx(table, abs=1e-6)
        assert student_t_quantile(1 - prob, dof) == pytest.approx(-table, abs=1e-6)

    def test_many_degrees_of_freedom_approach_the_normal(self):
        assert student_t_quantile(0.975, 1e6) == pytest.approx(1.959964, abs=1e-5)

    def test_one_degree_of_freedom_is_cauchy(self):
        for prob in (0.6, 0.9, 0.999):
            assert student_t_quantile(prob, 1) == pytest.approx(math.tan(math.pi * (prob - 0.5)), rel=1e-9)

    @pytest.mark.parametrize(("prob", "dof"), [(0, 3), (1, 3), (0.9, 0)])
    def test_bad_arguments(self, prob, dof):
        with pytest.raises(ValueError, match="prob = "):
            student_t_quantile(prob, dof)


class TestIncompleteBeta:
    def test_closed_forms(self):
        for x in (0.0, 0.1, 0.5, 0.93, 1.0):
            assert incomplete_beta(1, 1, x) == pytest.approx(x)  # uniform
            assert incomplete_beta(3, 1, x) == pytest.approx(x**3)
            assert incomplete_beta(1, 4, x) == pytest.approx(1 - (1 - x) ** 4)
            assert incomplete_beta(2, 2, x) == pytest.approx(x * x * (3 - 2 * x))

    def test_reflection(self):
        assert incomplete_beta(2.5, 7, 0.3) == pytest.approx(1 - incomplete_beta(7, 2.5, 0.7))

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match="x = 2"):
            incomplete_beta(1, 1, 2)


class TestMeanInterval:
    def test_three_seeds_by_hand(self):
        # mean 2, sd 1, t(0.975, 2) = 4.3026527: half = 4.3026527 / sqrt(3) = 2.4841377
        assert mean_interval([1, 2, 3]) == pytest.approx((2 - 2.4841377, 2 + 2.4841377), abs=1e-6)

    def test_equal_values_have_no_width(self):
        assert mean_interval([0.5, 0.5]) == Interval(0.5, 0.5)

    @pytest.mark.parametrize("values", [[], [0.7]])
    def test_one_seed_says_nothing_of_spread(self, values):
        assert all(math.isnan(end) for end in mean_interval(values))

    @pytest.mark.parametrize("values", [[1.0, float("nan")], [[1.0, 2.0]], 3.0])
    def test_values_must_be_a_finite_vector(self, values):
        with pytest.raises(ValueError, match="values = "):
            mean_interval(values)


class TestBootstrap:
    def test_same_seed_same_interval(self):
        values = np.random.default_rng(1).normal(size=50)
        assert bootstrap_interval(values, 3, resamples=200) == bootstrap_interval(values, 3, resamples=200)
        assert bootstrap_interval(values, 3, resamples=200) != bootstrap_interval(values, 4, resamples=200)

    def test_close_to_the_normal_interval_of_a_mean(self):
        values = np.random.default_rng(2).normal(size=400)
        low, high = bootstrap_interval(values, 0)
        half = 1.96 * values.std() / 20
        assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)

    def test_other_statistics(self):
        low, high = bootstrap_interval([1, 2, 3, 4, 100], 0, statistic=np.median, resamples=300)
        assert 1 <= low <= 3 <= high <= 100

    def test_draws_that_are_kept_are_the_draws_one_by_one(self, monkeypatch):
        values = np.random.default_rng(1).random(301)
        kept = bootstrap_interval(values, 5), bootstrap_interval(-values, 5), bootstrap_interval(values, 6)
        monkeypatch.setattr("arrol.stats.MAX_CACHED_DRAWS", 0)
        assert kept == (bootstrap_interval(values, 5), bootstrap_interval(-values, 5), bootstrap_interval(values, 6))

    def test_constant_and_empty(self):
        assert bootstrap_interval([2.0, 2.0], 0, resamples=10) == Interval(2.0, 2.0)
        assert all(math.isnan(end) for end in bootstrap_interval([], 0))


class TestBisection:
    def test_finds_a_root(self):
        assert bisect_increasing(lambda x: x * x - 2, 0, 2) == pytest.approx(math.sqrt(2), abs=1e-11)

    def test_solves_a_clipped_keep_offset(self):
        quality_G = np.array([0.0, 0.2, 0.6, 1.0])

        def kept(offset: float) -> float:
            return float(np.clip(0.5 + offset - quality_G, 0.1, 0.9).mean()) - 0.5

        assert abs(kept(bisect_increasing(kept, -2, 2))) < 1e-9

    def test_nearer_end_without_a_root(self):
        assert bisect_increasing(lambda x: x + 10, 0, 1) == 0
        assert bisect_increasing(lambda x: x - 10, 0, 1) == 1

    def test_step_resolves_to_its_upper_side(self):
        def step(x: float) -> float:
            return -1.0 if x < 0.3 else 1.0

        found = bisect_increasing(step, 0, 1, 1e-9)
        assert step(found) >= 0
        assert found == pytest.approx(0.3, abs=1e-8)

    def test_stops_when_floats_run_out(self):
        assert bisect_increasing(lambda x: x - 1e15, 0, 1e16, 1e-12) == pytest.approx(1e15)

    def test_bad_bounds(self):
        with pytest.raises(ValueError, match="low = 1"):
            bisect_increasing(lambda x: x, 1, 0)
