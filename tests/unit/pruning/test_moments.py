"""Squared contributions as a function of what a probe shows."""

import numpy as np
import pytest

from arrol.pruning.moments import ALLOWANCE, NUM_BINS, SHRINKAGE, fit, isotonic


def curve_of(signal, squared, *, cost=None, weight=None):
    ones = np.ones(len(signal))
    return fit(
        np.asarray(signal, float), np.asarray(squared, float), ones if cost is None else cost,
        ones if weight is None else weight,
    )  # fmt: skip


def test_isotonic_pools_adjacent_violators_by_weight():
    np.testing.assert_allclose(isotonic(np.array([1.0, 3.0, 2.0, 4.0]), np.ones(4)), [1, 2.5, 2.5, 4])
    np.testing.assert_allclose(isotonic(np.array([3.0, 0.0]), np.array([1.0, 2.0])), [1, 1])
    np.testing.assert_allclose(isotonic(np.array([1.0, 2.0]), np.ones(2)), [1, 2])


def test_the_curve_follows_what_was_realised_and_not_what_the_signal_says():
    rng = np.random.default_rng(0)
    signal = rng.random(4000)
    curve = curve_of(signal, (rng.random(4000) < 0.2 + 0.5 * signal).astype(float))
    np.testing.assert_allclose(curve.expected(np.array([0.1, 0.5, 0.9])), [0.25, 0.45, 0.65], atol=0.05)
    assert (np.diff(curve.mean_B) >= 0).all()
    assert len(curve.signal_B) == NUM_BINS


def test_weights_undo_the_lottery():
    """Low signals survive with probability .1: weighted, the mean is that of all."""
    rng = np.random.default_rng(1)
    signal = np.repeat([0.0, 1.0], 20_000)
    squared = (rng.random(40_000) < np.where(signal, 0.5, 0.1)).astype(float)
    survival = np.where(squared > 0, 0.3, 0.1)
    kept = rng.random(40_000) < survival
    curve = curve_of(signal[kept], squared[kept], weight=1 / survival[kept])
    np.testing.assert_allclose(curve.mean_B, [0.1, 0.5], atol=0.02)


def test_a_bin_without_any_contribution_has_an_allowance_that_shrinks_with_evidence():
    upper = []
    for count in (20, 200, 2000):
        signal = np.repeat([0.0, 1.0], count)
        curve = curve_of(signal, signal)
        assert curve.mean_B[0] == pytest.approx(0.5 * SHRINKAGE / (count + SHRINKAGE))
        variance = 0.25 * SHRINKAGE / (count + SHRINKAGE)
        assert curve.upper_B[0] == pytest.approx(curve.mean_B[0] + ALLOWANCE * np.sqrt(variance / (count + SHRINKAGE)))
        upper.append(curve.upper_B[0])
    assert upper[0] > upper[1] > upper[2] > 0


def test_size_is_the_root_of_contribution_over_cost_to_come():
    signal = np.repeat([0.0, 1.0], 500)
    curve = curve_of(signal, np.full(1000, 4.0), cost=np.where(signal, 100.0, 25.0))
    np.testing.assert_allclose(curve.size(np.array([0.0, 1.0])), [0.4, 0.2], rtol=0.03)


def test_one_rollout_and_equal_signals_give_one_bin():
    assert len(curve_of([0.3], [2.0]).signal_B) == 1
    assert len(curve_of(np.full(50, 0.3), np.ones(50)).signal_B) == 1
