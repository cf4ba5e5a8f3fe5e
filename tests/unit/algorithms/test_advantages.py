"""Edges and identities; the numbers themselves stand in tests/golden."""

import itertools

import numpy as np
import pytest

from arrol.algorithms.advantages import group_signal
from arrol.configs.method import GrpoConfig

CORRECTIONS = ("plain", "ipw", "doubly_robust")
OPTIONS = [
    {"correction": e, "leave_one_out": loo, "self_normalized": sn}
    for e, loo, sn in itertools.product(CORRECTIONS, (False, True), (False, True))
]


def signal_of(reward, survival, quality, *, normalize_by_std=False, **config):
    arrays = (np.asarray(values, float) for values in (reward, survival, quality))
    return group_signal(*arrays, GrpoConfig(**config), normalize_by_std=normalize_by_std)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("normalize_by_std", [False, True])
@pytest.mark.parametrize("graded", [False, True])
def test_without_pruning_every_estimator_is_plain_grpo(options, normalize_by_std, graded):
    rng = np.random.default_rng(1)
    for _ in range(50):
        reward = rng.random(8) if graded else (rng.random(8) < 0.3).astype(float)
        signal = signal_of(reward, np.ones(8), rng.random(8), normalize_by_std=normalize_by_std, **options)
        expected = reward - reward.mean()
        if normalize_by_std:
            expected = expected / (reward.std() + 1e-6)
        np.testing.assert_allclose(signal.advantage_G, expected, atol=1e-9)
        assert (signal.weight_G == 1).all()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 0.7])
@pytest.mark.parametrize("normalize_by_std", [False, True])
def test_a_dead_group_has_exactly_no_signal(options, reward, normalize_by_std):
    """Exactly: rounding noise would send whole groups through the learner for nothing."""
    quality = np.random.default_rng(0).random(7)
    signal = signal_of([reward] * 7, np.ones(7), quality, normalize_by_std=normalize_by_std, **options)
    assert (signal.advantage_G == 0).all()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_no_survivor_is_no_signal_and_no_error(options):
    signal = signal_of([np.nan] * 3, [0.5] * 3, [0.5] * 3, normalize_by_std=True, **options)
    assert (signal.advantage_G == 0).all()
    assert (signal.weight_G == 0).all()
    assert np.isnan(signal.baseline)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_lone_survivor_of_a_lone_rollout_teaches_nothing_when_certain(options):
    assert signal_of([1.0], [1.0], [np.nan], **options).advantage_G.tolist() == [0.0]


def test_stopped_rollouts_have_neither_advantage_nor_weight():
    for options in OPTIONS:
        signal = signal_of([1, np.nan, 0, np.nan], [0.5] * 4, [0.9, 0.1, 0.5, 0.5], normalize_by_std=True, **options)
        assert signal.advantage_G[[1, 3]].tolist() == [0, 0]
        assert signal.weight_G[[1, 3]].tolist() == [0, 0]
        assert np.isfinite(signal.advantage_G).all()


def test_the_predictions_of_stopped_rollouts_move_only_the_doubly_robust_baseline():
    group = ([1, np.nan, 0, 0], [0.5] * 4)
    for correction, moves in (("plain", False), ("ipw", False), ("doubly_robust", True)):
        low, high = (signal_of(*group, [0.5, q, 0.5, 0.5], correction=correction).baseline for q in (0.1, 0.9))
        assert (low != high) == moves


def test_uniform_survivors_still_teach_under_doubly_robust_and_not_under_plain():
    group = ([1, 1, np.nan, np.nan], [0.5] * 4, [0.9, 0.8, 0.2, 0.1])
    assert (signal_of(*group, correction="plain").advantage_G == 0).all()
    assert (signal_of(*group, correction="doubly_robust").advantage_G[:2] != 0).all()


def test_normalising_divides_all_siblings_alike():
    group = ([1, 0, np.nan, 0, 1], [0.5, 0.3, 0.5, 1, 0.9], [0.5, 0.1, 0.5, np.nan, 0.9])
    for options in OPTIONS:
        raw = signal_of(*group, **options).advantage_G
        scaled = signal_of(*group, normalize_by_std=True, **options).advantage_G
        kept = raw != 0
        factor = scaled[kept] / raw[kept]
        np.testing.assert_allclose(factor, factor[0])
        assert factor[0] > 1


def test_malformed_groups_are_refused():
    with pytest.raises(AssertionError):
        signal_of([1, 0], [1.0], [0.5, 0.5])
    with pytest.raises(AssertionError):
        signal_of([1, 0], [0.0, 1.0], [0.5, 0.5], correction="ipw")
