"""Intervals, quantiles and bisection: the statistics behind every reported number, in numpy and the standard library.

* Share of right answers: Wilson's score interval (1927), ``z`` the normal quantile, ``p`` the share of ``n`` samples::

      (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)

* Mean over seeds: Student's t with ``n - 1`` degrees of freedom. Its quantile is found by bisection on the exact
  distribution function, which is a regularized incomplete beta function (continued fraction, modified Lentz); no scipy.
* Anything else: the percentile bootstrap, seeded.
* ``bisect_increasing`` solves ``f(x) = 0`` for the offsets of the survival rules.

Nothing here clips an interval to the range of its quantity; the caller knows that range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

MAX_CACHED_DRAWS = 2**23
"""Drawn places that are held at a time; a bootstrap of more draws again."""


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def wilson_interval(right: float, total: float, level: float = 0.95) -> Interval:
    """Interval of a share: ``right`` of ``total`` independent samples; all of [0, 1] when there are none."""
    _check_level(level)
    if not 0 <= right <= total:
        raise ValueError(f"right = {right}: give a number in [0, total], total = {total}")
    if total == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, shrink = right / total, 1 + z * z / total
    middle = (share + z * z / (2 * total)) / shrink
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / shrink
    low = 0.0 if right == 0 else max(0.0, middle - half)
    high = 1.0 if right == total else min(1.0, middle + half)
    return Interval(low, high)


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student-t interval of a mean, one value per seed; NaN bounds below two values: one seed shows no spread."""
    _check_level(level)
    values_N = _finite_vector(values)
    if values_N.size < 2:
        return Interval(math.nan, math.nan)
    error = float(values_N.std(ddof=1)) / math.sqrt(values_N.size)
    half = student_t_quantile(0.5 + level / 2, values_N.size - 1) * error
    mean = float(values_N.mean())
    return Interval(mean - half, mean + half)


def bootstrap_interval(
    values: ArrayLike,
    seed: int,
    *,
    statistic: Callable[[np.ndarray], float] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Percentile bootstrap of a statistic (by default the mean) over ``values`` ``[N]``; NaN bounds when empty."""
    _check_level(level)
    values_N = _finite_vector(values)
    if values_N.size == 0:
        return Interval(math.nan, math.nan)
    if statistic is None and resamples * values_N.size <= MAX_CACHED_DRAWS:
        drawn = values_N[_draws(seed, values_N.size, resamples)].mean(1).tolist()
    else:
        measure = np.mean if statistic is None else statistic
        stream = np.random.default_rng(seed)
        drawn = [float(measure(values_N[stream.integers(values_N.size, size=values_N.size)])) for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(low), float(high))


def accuracy_with_interval(reward_PG: np.ndarray) -> tuple[float, float, float]:
    """Mean reward and its 95% interval: Wilson for one 0/1 sample per prompt, else a bootstrap over prompts."""
    assert reward_PG.ndim == 2, reward_PG.shape
    if reward_PG.shape[1] == 1 and np.isin(reward_PG, (0.0, 1.0)).all():
        low, high = wilson_interval(float(reward_PG.sum()), reward_PG.shape[0])
    else:
        low, high = bootstrap_interval(reward_PG.mean(1), seed=0)
    return float(reward_PG.mean()), low, high


@lru_cache(maxsize=1)
def _draws(seed: int, size: int, resamples: int) -> np.ndarray:
    """int32 ``[resamples, size]``, read-only: several metrics of the same problems share one draw."""
    stream = np.random.default_rng(seed)
    drawn = np.array([stream.integers(size, size=size) for _ in range(resamples)], np.int32)
    drawn.flags.writeable = False
    return drawn


def bisect_increasing(f: Callable[[float], float], low: float, high: float, tol: float = 1e-12) -> float:
    """Where the non-decreasing ``f`` reaches 0 in ``[low, high]``, to within ``tol``.

    The nearer end when it never does: ``low`` if ``f`` is 0 or more already there, ``high`` if still negative there.
    Otherwise ``f`` is at least 0 at the answer, so a step function is resolved to the upper side of its step.
    """
    if not (low <= high and tol > 0):
        raise ValueError(f"low = {low}, high = {high}, tol = {tol}: give low <= high and tol > 0")
    if f(low) >= 0:
        return low
    if f(high) < 0:
        return high
    while high - low > tol:
        middle = low + (high - low) / 2
        if middle in (low, high):  # neighbouring floats: as exact as the machine is
            break
        if f(middle) >= 0:
            high = middle
        else:
            low = middle
    return high


def student_t_quantile(prob: float, dof: float) -> float:
    """The ``t`` with ``P(T <= t) = prob`` for ``dof`` degrees of freedom; accurate to about 1e-10, relative."""
    if not (0 < prob < 1 and dof > 0):
        raise ValueError(f"prob = {prob}, dof = {dof}: give prob in (0, 1) and dof > 0")
    if prob < 0.5:
        return -student_t_quantile(1 - prob, dof)
    # P(T > t) = I_x(dof/2, 1/2) / 2 with x = dof / (dof + t^2), which grows with x.
    tail = 2 * (1 - prob)
    x = bisect_increasing(lambda x: incomplete_beta(dof / 2, 0.5, x) - tail, 0.0, 1.0, tol=1e-300)
    return math.sqrt(dof * (1 - x) / x)


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularized incomplete beta function ``I_x(a, b)``, the distribution function of Beta(a, b) at ``x``."""
    if not (a > 0 and b > 0 and 0 <= x <= 1):
        raise ValueError(f"a = {a}, b = {b}, x = {x}: give a, b > 0 and x in [0, 1]")
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast below the mean only
        return 1 - incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) * _beta_fraction(a, b, x) / a


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of ``I_x(a, b)`` by the modified Lentz method (Abramowitz and Stegun 26.5.8)."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 500):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _nonzero(1 + numerator * d)
            c = _nonzero(1 + numerator / c)
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return fraction


def _nonzero(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: give a confidence level in (0, 1), such as 0.95")


def _finite_vector(values: ArrayLike) -> np.ndarray:
    values_N = np.asarray(values, float)
    if values_N.ndim != 1 or not np.isfinite(values_N).all():
        shown: Sequence[float] | np.ndarray = values_N.ravel()[:5]
        raise ValueError(f"values = {list(shown)} of shape {values_N.shape}: give one finite number per seed or sample")
    return values_N
