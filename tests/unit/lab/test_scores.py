"""Cross-fitted qualities."""

from dataclasses import replace

import numpy as np

from arrol.lab.scores import auroc_by_length, crossfit_quality, logistic
from arrol.quality.diagnostics import auroc
from lab.conftest import make_pool


def with_features(informative):
    pool = make_pool(prompts=12, rollouts=60)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(12, 60, 2, 3))
    if informative:
        features[..., 0] += 2 * pool.reward_PN[..., None]
    features[pool.length_PN[..., None] < np.array(pool.probe_tokens)] = np.nan
    return replace(pool, features_PNKF=features.astype(np.float16))


def test_informative_features_are_used_and_noise_is_not():
    for informative, low, high in ((True, 0.85, 1.0), (False, 0.4, 0.6)):
        pool = with_features(informative)
        pool = replace(pool, quality_PNK=crossfit_quality(pool))
        for row in auroc_by_length(pool):
            assert low <= row["auroc_within"] <= high, row


def test_a_prompts_own_rewards_change_nothing_about_it():
    pool = with_features(True)
    first = crossfit_quality(pool)
    flipped = pool.reward_PN.copy()
    flipped[3] = 1 - flipped[3]
    second = crossfit_quality(replace(pool, reward_PN=flipped))
    np.testing.assert_array_equal(first[3], second[3])
    assert not np.array_equal(first, second, equal_nan=True)


def test_rollouts_that_ended_before_have_no_quality():
    pool = with_features(True)
    quality = crossfit_quality(pool)
    assert (np.isnan(quality) == (pool.length_PN[..., None] < np.array(pool.probe_tokens))).all()


def test_a_length_without_both_outcomes_gets_the_prior():
    pool = with_features(True)
    quality = crossfit_quality(replace(pool, reward_PN=np.ones_like(pool.reward_PN)))
    assert np.nanmin(quality) > 0.99


def test_a_length_with_too_few_right_rollouts_has_no_auroc():
    pool = with_features(True)
    rare = np.zeros_like(pool.reward_PN)
    rare[:, 0] = 1
    pool = replace(pool, reward_PN=rare)
    for row in auroc_by_length(replace(pool, quality_PNK=crossfit_quality(pool))):
        assert np.isnan([row["auroc_within"], row["auroc_pooled"]]).all()


def test_the_regression_is_calibrated_on_its_own_model():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 2))
    rate = 1 / (1 + np.exp(-(features[:, 0] - 0.5)))
    label = (rng.random(4000) < rate).astype(float)
    np.testing.assert_allclose(logistic(features, label, features), rate, atol=0.06)


def test_a_few_right_records_of_prompts_whose_rollouts_look_alike_are_learnt_from():
    """As on a real model, where half of the right rollouts are of two prompts: whole Newton steps end at 0 and 1."""
    rng = np.random.default_rng(0)
    features = np.repeat(rng.standard_t(3, size=(72, 400)), 32, 0) + 0.3 * rng.standard_t(3, size=(72 * 32, 400))
    rate = np.repeat(np.where(np.arange(72) % 18 == 0, 0.9, 0.01), 32)
    label = (rng.random(72 * 32) < rate).astype(float)
    seen, new = slice(0, 36 * 32), slice(36 * 32, None)
    predicted = logistic(features[seen], label[seen], features[new])
    assert auroc(predicted, label[new]) > 0.75
    assert predicted.min() > 0
    assert predicted.max() < 0.5
