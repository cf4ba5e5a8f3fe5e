"""Learns from outcomes what a rollout adds to the variance of the gradient, given what its probe shows. Numpy only.

A survivor with squared contribution m (advantage squared, times the size of its gradient, for which its length stands
in) and survival p adds m / p to the variance. So the best survival is proportional to sqrt(E[m | probe] / cost still to
come). ``neyman`` composes E[m | probe] from a predicted quality and a success rate, and errs with both; here it is the
mean of what was realised:

    bins of the signal x, about equal in weight; per bin the mean of m, weights 1/survival, pulled to the mean of all by
    SHRINKAGE rollouts; isotonic, since x is a prediction of m; plus ALLOWANCE standard errors for what is not known

A bin where no rollout has contributed yet is so never taken for one that cannot. Between bins values are interpolated.
Legend: ``N`` rollouts, ``B`` bins, ``C`` candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NUM_BINS = 10
SHRINKAGE = 8.0
"""Rollouts that each bin borrows from the mean."""
ALLOWANCE = 1.0
"""Standard errors above the mean that a candidate is given."""
LEAST_COST = 1e-9


class Curve(NamedTuple):
    """What is known of candidates at one probe, as a function of their signal."""

    signal_B: np.ndarray
    """Mean signal of each bin, ascending."""
    mean_B: np.ndarray
    """Squared contribution, shrunk and isotonic."""
    upper_B: np.ndarray
    """The same with the allowance."""
    cost_B: np.ndarray
    """Cost still to come, shrunk."""

    def expected(self, signal_C: np.ndarray) -> np.ndarray:
        """float64 ``[C]``: expected squared contribution."""
        return np.interp(signal_C, self.signal_B, self.mean_B)

    def unknown(self, signal_C: np.ndarray) -> np.ndarray:
        """float64 ``[C]``: the allowance alone."""
        return np.interp(signal_C, self.signal_B, self.upper_B - self.mean_B)

    def size(self, signal_C: np.ndarray) -> np.ndarray:
        """float64 ``[C]``: sqrt(squared contribution with its allowance / cost still to come)."""
        upper_C = np.interp(signal_C, self.signal_B, self.upper_B)
        cost_C = np.interp(signal_C, self.signal_B, self.cost_B)
        return np.sqrt(upper_C / np.maximum(cost_C, LEAST_COST))


def fit(signal_N: np.ndarray, squared_N: np.ndarray, cost_N: np.ndarray, weight_N: np.ndarray) -> Curve:
    """The curve of finished candidates; at least one, all finite, ``weight_N`` is 1/survival."""
    bin_N = _bins(signal_N, weight_N)
    count_B = np.bincount(bin_N, weight_N) ** 2 / np.bincount(bin_N, weight_N**2)
    mean_B, variance_B = _moments(bin_N, squared_N, weight_N)
    mean, variance = (float(values[0]) for values in _moments(np.zeros_like(bin_N), squared_N, weight_N))
    pulled_B = isotonic(_shrunk(mean_B, count_B, mean), count_B + SHRINKAGE)
    error_B = np.sqrt(_shrunk(variance_B, count_B, variance) / (count_B + SHRINKAGE))
    cost_B, _ = _moments(bin_N, cost_N, weight_N)
    return Curve(
        _moments(bin_N, signal_N, weight_N)[0],
        pulled_B,
        isotonic(pulled_B + ALLOWANCE * error_B, count_B + SHRINKAGE),
        _shrunk(cost_B, count_B, float(np.average(cost_N, weights=weight_N))),
    )


def isotonic(value_B: np.ndarray, weight_B: np.ndarray) -> np.ndarray:
    """float64 ``[B]``: the rising sequence nearest to the values (weighted squares), by pooling adjacent violators."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(value_B, weight_B, strict=True):
        blocks.append((float(value), float(weight), 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (low, left, many), (high, right, more) = blocks[-2:]
            blocks[-2:] = [((low * left + high * right) / (left + right), left + right, many + more)]
    return np.repeat([value for value, _, _ in blocks], [count for _, _, count in blocks])


def _bins(signal_N: np.ndarray, weight_N: np.ndarray) -> np.ndarray:
    """int ``[N]``: bin of each, from 0 without gaps; equal signals share one."""
    order = np.argsort(signal_N, kind="stable")
    share_N = np.cumsum(weight_N[order]) / weight_N.sum()
    firsts = np.searchsorted(share_N, np.arange(1, NUM_BINS) / NUM_BINS)
    edges = np.unique(signal_N[order][np.minimum(firsts, len(order) - 1)])
    return np.unique(np.searchsorted(edges, signal_N, side="left"), return_inverse=True)[1]


def _moments(bin_N: np.ndarray, value_N: np.ndarray, weight_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and variance per bin, ``[B]`` both."""
    total_B = np.bincount(bin_N, weight_N)
    mean_B = np.bincount(bin_N, weight_N * value_N) / total_B
    return mean_B, np.bincount(bin_N, weight_N * (value_N - mean_B[bin_N]) ** 2) / total_B


def _shrunk(value_B: np.ndarray, count_B: np.ndarray, to: float) -> np.ndarray:
    return (count_B * value_B + SHRINKAGE * to) / (count_B + SHRINKAGE)
