"""The head: what it says untrained, that it learns, that weights matter, and odd input."""

import numpy as np
import pytest
import torch

from arrol.configs.method import QualityConfig
from arrol.quality.buffer import ProbeBuffer
from arrol.quality.head import MAX_WEIGHT, QualityHead, refit

CONFIG = QualityConfig(hidden_size=16, learning_rate=1e-2, passes=5, batch_size=64)


def filled(features, label, weight=None):
    features, label = np.asarray(features, np.float32), np.asarray(label, float)
    buffer = ProbeBuffer(10_000, features.shape[1])
    buffer.push(features, label, np.ones(len(label)) if weight is None else weight, np.zeros(len(label)), 0)
    return buffer


def trained(buffer, *, config=CONFIG, refits=6, seed=0):
    head = QualityHead(buffer.features_NF.shape[1], config.hidden_size, seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.learning_rate)
    losses = [refit(head, optimizer, buffer, config, seed=number) for number in range(refits)]
    return head, losses


def separable(count=400, scale=1.0):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, 3)) * scale
    return features, (features[:, 1] > 0).astype(float)


def test_an_untrained_head_says_the_same_of_all():
    scores = QualityHead(3, 16, seed=1).scores(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
    assert scores.tolist() == [0] * 5
    assert scores.dtype == np.float64


def test_the_seed_is_the_heads_own():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    heads = [QualityHead(3, 16, seed) for seed in (1, 1, 2)]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(heads[0].first.weight, heads[1].first.weight)
    assert not torch.equal(heads[0].first.weight, heads[2].first.weight)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_it_learns_whatever_the_scale_of_its_features(scale):
    features, label = separable(scale=scale)
    head, losses = trained(filled(features, label))
    right = (head.scores(features.astype(np.float32)) > 0) == (label > 0.5)
    assert right.mean() > 0.93
    assert losses[-1] < 0.5 * losses[0] < 0.5 * 0.7


def test_weights_matter_up_to_their_cap():
    """Nothing to see in the features: one right record in four.

    Weight 3 makes the odds even; a weight above the cap counts as the cap.
    """
    features, label = np.ones((400, 2)), np.array([1.0, 0, 0, 0] * 100)
    for weight, odds in ((1, 1 / 3), (3, 1.0), (10 * MAX_WEIGHT, MAX_WEIGHT / 3)):
        head, _ = trained(filled(features, label, np.where(label > 0.5, weight, 1.0)), refits=25)
        assert head.scores(np.ones((1, 2), np.float32))[0] == pytest.approx(np.log(odds), abs=0.25)


def test_features_that_are_no_number_have_no_score_and_teach_nothing():
    features, label = separable(100)
    spoilt = np.vstack([features, [[np.nan, 0, 0], [0, np.inf, 0]]])
    clean, _ = trained(filled(features, label))
    dirty, losses = trained(filled(spoilt, [*label, 1, 1]))
    probe = features[:5].astype(np.float32)
    np.testing.assert_array_equal(clean.scores(probe), dirty.scores(probe))
    scores = dirty.scores(spoilt.astype(np.float32))
    assert np.isnan(scores[-2:]).all()
    assert np.isfinite(scores[:-2]).all()
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("count", [0, 1])
def test_next_to_nothing_teaches_nothing(count):
    head, losses = trained(filled(np.ones((count, 3)), np.ones(count)), refits=1)
    assert np.isnan(losses[0])
    assert head.scores(np.ones((1, 3), np.float32)).tolist() == [0]


def test_a_refit_repeats_under_its_seed():
    features, label = separable(200)
    heads = [trained(filled(features, label), refits=1, seed=seed)[0] for seed in (3, 3)]
    assert torch.equal(heads[0].second.weight, heads[1].second.weight)


def test_outliers_are_clamped():
    features, label = separable(200)
    head, _ = trained(filled(features, label))
    far = head.scores(np.array([[0, 1e30, 0], [0, 10 * head.scale_F[1].item() + 1, 0]], np.float32))
    assert np.isfinite(far).all()
    assert far[0] == pytest.approx(far[1], abs=1e-3)
