"""AUROC, Brier and calibration error, counted by hand."""

import numpy as np
import pytest

from arrol.quality.diagnostics import auroc, auroc_within, brier, expected_calibration_error

SCORE, LABEL = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0.0, 0, 1, 1])


def test_auroc_by_hand():
    """Pairs (right, wrong): .35 beats .1 and loses to .4; .8 beats both: 3 of 4."""
    assert auroc(SCORE, LABEL) == 0.75
    assert auroc(-SCORE, LABEL) == 0.25
    assert auroc(np.zeros(4), LABEL) == 0.5


def test_auroc_weights_pairs():
    """Give the losing right record weight 3: wins 3 + 1 + 1 of 3 + 3 + 1 + 1."""
    assert auroc(SCORE, LABEL, np.array([1.0, 1, 3, 1])) == pytest.approx(5 / 8)
    assert auroc(SCORE, LABEL, np.full(4, 7.0)) == 0.75


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_the_count_over_all_pairs(seed):
    """Few values, so that there are ties; weights of all sizes."""
    rng = np.random.default_rng(seed)
    score, label, weight = rng.integers(0, 5, 30) / 7, rng.random(30) < 0.4, rng.exponential(size=30)
    pairs = [(i, j, weight[i] * weight[j]) for i in np.flatnonzero(label) for j in np.flatnonzero(~label)]
    wins = sum(both * ((score[i] > score[j]) + 0.5 * (score[i] == score[j])) for i, j, both in pairs)
    assert auroc(score, label, weight) == pytest.approx(wins / sum(both for _, _, both in pairs), rel=1e-12)


@pytest.mark.parametrize("label", [np.ones(4), np.zeros(4)])
def test_one_class_has_no_auroc(label):
    assert np.isnan(auroc(SCORE, label))
    assert np.isnan(auroc_within(SCORE, label, np.zeros(4)))
    assert np.isnan(auroc(np.zeros(0), np.zeros(0)))


def test_pooled_measures_difficulty_and_within_does_not():
    """Two prompts; the score knows the prompt only: pooled 9 wins, 6 ties and 1 loss of 16 pairs, within all ties."""
    score = np.repeat([0.9, 0.1], 4)
    label = np.array([1.0, 1, 1, 0, 0, 0, 0, 1])
    group = np.repeat([0, 1], 4)
    assert auroc_within(score, label, group) == 0.5
    assert auroc(score, label) == pytest.approx((9 + 0.5 * 3 + 0.5 * 3) / 16)


def test_within_pools_pairs_and_skips_prompts_of_one_class():
    """Prompt 0: 1 of 1; prompt 1: 0 of 2; prompt 2 is all right: 1 of 3."""
    score = np.array([0.9, 0.1, 0.2, 0.5, 0.6, 0.3, 0.4])
    label = np.array([1.0, 0, 1, 0, 0, 1, 1])
    group = np.array([0, 0, 1, 1, 1, 2, 2])
    assert auroc_within(score, label, group) == pytest.approx(1 / 3)
    weight = np.array([2.0, 1, 1, 1, 1, 1, 1])
    assert auroc_within(score, label, group, weight) == pytest.approx(2 / 4)


def test_brier_by_hand():
    quality, label = np.array([0.5, 1.0, 0.0]), np.array([1.0, 1, 1])
    assert brier(quality, label) == pytest.approx((0.25 + 0 + 1) / 3)
    assert brier(quality, label, np.array([2.0, 1, 1])) == pytest.approx(1.5 / 4)
    assert np.isnan(brier(np.zeros(0), np.zeros(0)))


def test_calibration_error_by_hand():
    """Bin .2: predicted .25 twice, realised one half: gap .25, mass 2/4. Last bin: .9 and 1, both right: gap .05."""
    quality, label = np.array([0.25, 0.25, 0.9, 1.0]), np.array([1.0, 0, 1, 1])
    assert expected_calibration_error(quality, label) == pytest.approx(0.25 * 0.5 + 0.05 * 0.5)
    weight = np.array([1.0, 3, 1, 1])
    assert expected_calibration_error(quality, label, weight) == pytest.approx((0 + 0.1) / 6)
    assert np.isnan(expected_calibration_error(np.zeros(0), np.zeros(0)))


def test_calibration_error_lets_no_bin_cancel_another():
    assert expected_calibration_error(np.array([0.05, 0.95]), np.array([1.0, 0])) == pytest.approx(0.95)
