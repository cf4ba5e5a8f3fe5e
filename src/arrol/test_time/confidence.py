"""DeepConf's confidence of tokens, windows and traces (arXiv 2508.15260, section 3). Pure numpy.

P_i(j) is the probability of the j-th likeliest token at position i::

    token, top-k      C_i   = -(1/k) sum_{j <= k} log P_i(j)       confidence_topk; k = 20 in the released code
    token, full       C_i   = -(1/V) sum_j log P_i(j)              confidence_full; ARRoL's text means this one
    window            C_G   = mean of C over n consecutive tokens  window_means; n = 2048, stride 1
    average           mean of all C_i
    bottom            mean of the lowest 10% of the windows, rounded down, at least one
    lowest            lowest window
    tail              mean of the last n token confidences
    top eta percent   those with C >= percentile(100 - eta)        keep_top_percent

A high C means a peaked distribution: the other tokens are so unlikely that their negative logarithms are large. C has
no upper bound and depends on model, temperature and k, so thresholds do not transfer. A trace shorter than the window
is one window. Give the model's own log-probabilities, before temperature, top-k and top-p.

Deviations: (1) DeepConf's code rounds token and window values to three digits, we do not; (2) windows come from
cumulative sums in float64, equal to the direct mean to about 1e-12.

Legend: ``T`` tokens of a trace, ``K`` likeliest tokens, ``V`` vocabulary, ``W`` windows, ``N`` traces.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from arrol.errors import ConfigError, DataError

WINDOW_TOKENS = 2048
"""As released."""
BOTTOM_FRAC = 0.1
"""Share of the windows that ``bottom`` averages."""


def confidence_topk(logprobs_TK: ArrayLike) -> np.ndarray:
    """float64 ``[T]``: from the log-probabilities of the ``K`` likeliest tokens at each position, in any order."""
    return -_logprobs(logprobs_TK, "logprobs_TK", 2).mean(-1)


def confidence_full(logprobs_TV: ArrayLike) -> np.ndarray:
    """float64 ``[T]``: the same mean over the whole vocabulary; it grows with the vocabulary's tail."""
    return -_logprobs(logprobs_TV, "logprobs_TV", 2).mean(-1)


def confidence_sampled(logprobs_T: ArrayLike) -> np.ndarray:
    """float64 ``[T]`` in (0, 1]: probability of the sampled token, our substitute where top-k is not recorded.

    Its expectation is sum_j P(j)^2, so high means peaked too. It is noisy and shares no threshold with the others.
    """
    return np.exp(_logprobs(logprobs_T, "logprobs_T", 1))


def window_means(confidence_T: ArrayLike, window: int = WINDOW_TOKENS) -> np.ndarray:
    """float64 ``[W]``: mean of every ``window`` consecutive tokens, or of the whole trace if it is shorter."""
    confidence_T = _trace(confidence_T, window)
    window = min(window, len(confidence_T))
    sums = np.concatenate([[0.0], np.cumsum(confidence_T)])
    return (sums[window:] - sums[:-window]) / window


def average(confidence_T: ArrayLike, window: int = WINDOW_TOKENS) -> float:
    """Mean of the trace."""
    return float(_trace(confidence_T, window).mean())


def bottom(confidence_T: ArrayLike, window: int = WINDOW_TOKENS) -> float:
    """Mean of the lowest tenth of the windows."""
    mean_W = window_means(confidence_T, window)
    count = max(1, int(BOTTOM_FRAC * len(mean_W)))
    return float(np.partition(mean_W, count - 1)[:count].mean())


def lowest(confidence_T: ArrayLike, window: int = WINDOW_TOKENS) -> float:
    """The lowest window mean, by which DeepConf online stops and votes."""
    return float(window_means(confidence_T, window).min())


def tail(confidence_T: ArrayLike, window: int = WINDOW_TOKENS) -> float:
    """Mean of the last ``window`` tokens."""
    return float(_trace(confidence_T, window)[-window:].mean())


MEASURES: dict[str, Callable[[ArrayLike, int], float]] = {
    "average": average,
    "bottom": bottom,
    "lowest": lowest,
    "tail": tail,
}
"""Name -> (confidences of a trace, window) -> one number per trace."""


def trace_confidence(confidence_T: ArrayLike, measure: str = "lowest", window: int = WINDOW_TOKENS) -> float:
    """A measure of a trace, by name."""
    if measure not in MEASURES:
        raise ConfigError(f"measure = {measure!r}: unknown; choose from {', '.join(MEASURES)}")
    return MEASURES[measure](confidence_T, window)


def top_threshold(values_N: ArrayLike, percent: float, among_N: np.ndarray | None = None) -> np.ndarray:
    """``percentile(100 - percent)`` over the last axis, among the values ``among_N``; inf of no value."""
    if not 0 < percent <= 100:
        raise ConfigError(f"keep_top_percent = {percent}: give the share to keep, above 0 and at most 100")
    values_N = np.asarray(values_N, float)
    among_N = np.ones(values_N.shape, bool) if among_N is None else among_N
    if np.isnan(values_N[among_N]).any():
        raise DataError("values = nan: a percentile needs a number per trace; leave out traces without one")
    sorted_N, count = np.sort(np.where(among_N, values_N, np.inf), axis=-1), among_N.sum(-1)
    place = (100 - percent) * np.maximum(count - 1, 0) / 100
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, np.maximum(count - 1, 0))
    low_value, high_value = (np.take_along_axis(sorted_N, i[..., None], -1)[..., 0] for i in (low, high))
    steps = np.where(count > 0, high_value, 0.0) - np.where(count > 0, low_value, 0.0)
    return low_value + steps * (place - low)


def keep_top_percent(values_N: ArrayLike, percent: float, among_N: np.ndarray | None = None) -> np.ndarray:
    """bool, the shape of ``values_N``: at or above :func:`top_threshold`; 10 is DeepConf-low, 90 DeepConf-high."""
    kept_N = np.asarray(values_N, float) >= top_threshold(values_N, percent, among_N)[..., None]
    return kept_N if among_N is None else kept_N & among_N


def _logprobs(values: ArrayLike, name: str, rank: int) -> np.ndarray:
    array = np.asarray(values, float)
    if array.ndim != rank or (rank > 1 and array.shape[-1] == 0):
        raise DataError(f"{name} of shape {array.shape}: give {rank} axes, {name.rpartition('_')[2]}, none empty")
    if not np.isfinite(array).all() or (array > 1e-6).any():
        bad = array[~np.isfinite(array) | (array > 1e-6)][0]
        raise DataError(f"{name} contains {bad}: give finite log-probabilities, at most 0, before any token is masked")
    return array


def _trace(confidence_T: ArrayLike, window: int) -> np.ndarray:
    array = np.asarray(confidence_T, float)
    if window < 1:
        raise ConfigError(f"window = {window}: give a number of tokens, at least 1")
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise DataError(f"confidence_T of shape {array.shape}: give one finite number per token, at least one token")
    return array
