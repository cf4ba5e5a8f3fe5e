"""Bins, readiness, weights and odd input; posteriors by hand are in tests/golden."""

import numpy as np
import pytest

from arrol.configs.method import QualityConfig
from arrol.quality.calibration import (
    CALIBRATION_SIZE,
    Calibration,
    ConfidenceEstimator,
    ScoredEstimator,
    binned_posterior,
    bins,
    shrunk_rates,
    sigmoid,
)


def logit(prob):
    return np.log(prob / (1 - np.asarray(prob, float)))


def fitted(score, label, weight=None, **config):
    calibration = Calibration(QualityConfig(**{"min_class_records": 1, "num_bins": 10, **config}))
    label = np.asarray(label, float)
    calibration.refit(np.asarray(score, float), label, np.ones(len(label)) if weight is None else np.asarray(weight))
    return calibration


def test_sigmoid_overflows_nowhere():
    np.testing.assert_allclose(sigmoid(np.array([-1e308, -1, 0, 1, 1e308])), [0, 0.26894142, 0.5, 0.73105858, 1])


def test_bins_cover_the_whole_range():
    assert bins(logit([0.05, 0.15, 0.95]), 10).tolist() == [0, 1, 9]
    assert bins(np.array([-1e9, 0.0, 1e9]), 10).tolist() == [0, 5, 9]
    assert bins(np.array([3.0]), 1).tolist() == [0]


def test_before_any_record_all_are_even():
    assert Calibration(QualityConfig()).quality(np.array([-9.0, 9.0])).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("label", [[1] * 40, [0] * 40, [1] * 8 + [0] * 32])
def test_with_too_few_of_a_class_quality_is_the_prior(label):
    calibration = fitted(np.linspace(-3, 3, 40), label, min_class_records=10)
    assert not calibration.is_ready
    np.testing.assert_allclose(calibration.quality(np.array([-3.0, 3.0])), np.mean(label))


def test_enough_records_make_it_ready_and_losing_a_class_unmakes_it():
    calibration = fitted(logit([0.05] * 10 + [0.95] * 10), [0] * 10 + [1] * 10, min_class_records=10)
    assert calibration.is_ready
    low, high = calibration.quality(logit([0.05, 0.95]))
    assert low < 0.1 < 0.9 < high
    calibration.refit(np.zeros(20), np.ones(20), np.ones(20))
    assert calibration.quality(logit([0.05, 0.95])).tolist() == [1, 1]


def test_weights_count_as_records():
    """One right record of weight 3 against three wrong ones, in one bin."""
    weighted = fitted(np.zeros(4), [1, 0, 0, 0], [3, 1, 1, 1])
    repeated = fitted(np.zeros(6), [1, 1, 1, 0, 0, 0])
    np.testing.assert_allclose(weighted.quality(np.zeros(1)), repeated.quality(np.zeros(1)))
    assert weighted.prior == 0.5
    assert fitted(np.zeros(4), [1, 0, 0, 0]).prior == 0.25


def test_only_the_newest_scored_records_make_the_table():
    old, new = CALIBRATION_SIZE, CALIBRATION_SIZE
    calibration = fitted(np.zeros(old + new), [1, 0] * (old // 2) + [1, 0, 0, 0] * (new // 4), pseudo_count=0)
    np.testing.assert_allclose(calibration.quality(np.zeros(1)), 0.25)


def test_records_without_a_score_stay_out_of_the_table():
    calibration = fitted([np.nan, np.nan, 0.0, 0.0], [1, 1, 1, 0], pseudo_count=0)
    assert calibration.quality(np.zeros(1)).tolist() == [0.5]
    assert calibration.prior == 0.75


@pytest.mark.parametrize("label", [[1, 0, 1, 0], [1, 1, 1, 1]])
def test_a_score_that_is_no_number_has_no_quality(label):
    quality = fitted([0.0] * 4, label).quality(np.array([0.0, np.nan]))
    assert np.isfinite(quality[0])
    assert np.isnan(quality[1])


@pytest.mark.parametrize("rule", [binned_posterior, shrunk_rates])
def test_posteriors_are_probabilities_even_without_counts(rule):
    for pseudo_count in (0.0, 0.5, 1.0):
        quality = rule(np.array([0.0, 3, 0, 1]), np.array([0.0, 0, 2, 1]), 2 / 3, pseudo_count)
        assert ((quality >= 0) & (quality <= 1)).all()
        assert quality[1] > quality[3] > quality[2]


def test_a_restart_keeps_the_table():
    calibration = fitted(logit([0.05] * 5 + [0.95] * 5), [0, 0, 0, 0, 1] + [1] * 5)
    again = Calibration(QualityConfig(num_bins=10))
    again.load(calibration.save())
    score = np.linspace(-4, 4, 50)
    np.testing.assert_array_equal(again.quality(score), calibration.quality(score))
    assert again.prior == calibration.prior
    assert again.is_ready


def tables_of(*calibrations, version=7):
    tables = [calibration.save() for calibration in calibrations]
    return {"version": version, "probe_tokens": [8, 16][: len(tables)], "tables": tables}


def test_tables_serve_as_they_were_fitted():
    """Whatever their number of bins; later fits do not reach what was loaded."""
    score = np.linspace(-4, 4, 50)
    fits = [fitted(score, score > 0, num_bins=4), fitted(score, score < 1, num_bins=30)]
    served = ScoredEstimator()
    served.load(tables_of(*fits))
    expected = [fit.quality(score) for fit in fits]
    fits[0].refit(score, np.ones(50), np.ones(50))
    for probe in (0, 1):
        np.testing.assert_array_equal(served.at((8, 16)).quality(score, probe), expected[probe])
    assert (served.version, served.probe_tokens) == (7, (8, 16))
    served.load(tables_of(fitted([0.0] * 4, [1, 0, 0, 0]), version=8))
    assert served.at((8,)).quality(np.zeros(1), 0) == 0.25
    assert (served.version, served.probe_tokens) == (8, (8,))


def test_a_rule_with_some_of_the_probes_reads_the_table_of_its_length():
    score = np.linspace(-4, 4, 50)
    early, late = fitted(score, score > 0, num_bins=4), fitted(score, score < 1, num_bins=30)
    served = ScoredEstimator()
    alone = served.at((16,))
    served.load(tables_of(early, late))
    np.testing.assert_array_equal(alone.quality(score, 0), late.quality(score))
    assert np.isnan(served.at((12, 16)).quality(score, 0)).all(), "no head was trained at 12"
    assert alone.version == 7


def test_before_its_tables_have_come_nothing_is_known():
    served = ScoredEstimator()
    assert np.isnan(served.at((8,)).quality(np.array([-1.0, 1.0]), 0)).all()
    assert (served.version, served.probe_tokens) == (0, ())


@pytest.mark.parametrize("estimator", [ScoredEstimator().at((8,)), ConfidenceEstimator()])
def test_without_a_head_features_have_no_score(estimator):
    score = estimator.scores(np.ones((3, 2), np.float32), 0)
    assert score.shape == (3,)
    assert np.isnan(score).all()


def test_confidence_is_the_mean_probability_of_a_token():
    quality = ConfidenceEstimator().quality(np.log([0.125, 0.25, 1.0]), 0)
    np.testing.assert_allclose(quality, [0.125, 0.25, 1])
    quality = ConfidenceEstimator().quality(np.array([-np.inf, np.nan, 1e-6]), 0)
    np.testing.assert_array_equal(quality, [0, np.nan, 1])
