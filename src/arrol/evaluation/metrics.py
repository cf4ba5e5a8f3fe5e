"""pass@k, avg@k and best-of-k: one value per prompt, then a mean with its interval. Pure numpy.

A prompt has n samples, c of them right; prompts may differ in n::

    avg@k      c / n, with n = k samples: the accuracy of one sample
    pass@k     1 - C(n-c, k) / C(n, k), arXiv 2107.03374: chance that k of the n samples, drawn without
               repetition, contain a right one. As a product of min(c, k) factors, so nothing overflows.
    best-of-k  sum over ranks r of right_r C(n-r, k-1) / C(n, k): the highest score of such k samples is right
    gap        pass@k - maj@k: what a better selector could win (maj@k is in ``majority.py``)

``n < k`` is refused; prefer n >= 2k, since with n = k pass@k is 0 or 1 per prompt. The plug-in 1 - (1 - c/n)^k is
biased low and not used.

Deviations, ours: (1) in best-of-k equal scores share their chance evenly; (2) where every prompt has value 0, or every
prompt 1, Wilson's interval replaces the bootstrap; (3) one prompt has no interval (NaN).

Legend: ``P`` prompts, ``G`` or ``N`` samples per prompt, ``K`` values of k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from arrol.errors import DataError
from arrol.stats import bootstrap_interval, wilson_interval


@dataclass(frozen=True)
class Metric:
    """A mean over prompts and its 95% interval."""

    value: float
    low: float
    high: float
    num_prompts: int


def summary(value_P: ArrayLike, seed: int = 0) -> Metric:
    """Mean of one value per prompt with a bootstrap interval over prompts, but see deviations 2 and 3."""
    value_P = np.asarray(value_P, float)
    if value_P.ndim != 1 or not value_P.size or not np.isfinite(value_P).all():
        raise DataError(f"value_P of shape {value_P.shape}: give one finite value per prompt, at least one prompt")
    if value_P.size > 1 and (value_P == value_P[0]).all() and value_P[0] in (0.0, 1.0):
        return Metric(float(value_P[0]), *wilson_interval(float(value_P.sum()), value_P.size), value_P.size)
    return _bootstrapped(value_P, seed)


def paired_difference(value_P: ArrayLike, baseline_P: ArrayLike, seed: int = 0) -> Metric:
    """Mean of value - baseline on the same prompts; the bootstrap resamples the differences."""
    value_P, baseline_P = np.asarray(value_P, float), np.asarray(baseline_P, float)
    if value_P.ndim != 1 or value_P.shape != baseline_P.shape or not value_P.size:
        raise DataError(
            f"baseline_P of shape {baseline_P.shape}: {value_P.shape} values; give both on the same prompts"
        )
    return _bootstrapped(value_P - baseline_P, seed)


def _bootstrapped(value_P: np.ndarray, seed: int) -> Metric:
    low, high = bootstrap_interval(value_P, seed) if value_P.size > 1 else (np.nan, np.nan)
    return Metric(float(value_P.mean()), low, high, value_P.size)


def avg_at_k(num_right_P: ArrayLike, num_samples_P: ArrayLike) -> np.ndarray:
    """float64 ``[P]``: share of right samples per prompt."""
    right_P, size_P = checked_counts(num_right_P, num_samples_P, [1])
    return right_P / size_P


def pass_at_k(num_right_P: ArrayLike, num_samples_P: ArrayLike, k: int) -> np.ndarray:
    """float64 ``[P]``: unbiased; ``num_samples_P`` may be one number for all."""
    right_P, size_P = checked_counts(num_right_P, num_samples_P, [k])
    return 1.0 - _miss(size_P - right_P, size_P, k)


def best_of_k(score_P: Sequence[ArrayLike], right_P: Sequence[ArrayLike], ks: Sequence[int]) -> np.ndarray:
    """float64 ``[P, K]`` from scores and verdicts ``[N]`` of each prompt; -inf ranks a sample last."""
    value_PK = np.zeros((len(score_P), len(ks)))
    for p, (scores, verdicts) in enumerate(zip(score_P, right_P, strict=True)):
        score_N, right_N = np.asarray(scores, float), np.asarray(verdicts, bool)
        if score_N.shape != right_N.shape or np.isnan(score_N).any():
            raise DataError(
                f"score of prompt {p}: {score_N.size} scores, {right_N.size} verdicts; give one number each"
            )
        checked_counts([right_N.sum()], [right_N.size], ks, first=p)
        order_N = np.argsort(-score_N, kind="stable")
        _, start_N, count_N = np.unique(-score_N[order_N], return_index=True, return_counts=True)
        shared_N = np.repeat(np.add.reduceat(right_N[order_N].astype(float), start_N) / count_N, count_N)
        value_PK[p] = [shared_N @ _chance_of_top(len(score_N), k) for k in ks]
    return value_PK


def dead_group_frac(reward_PG: np.ndarray, group_size: int) -> float:
    """Unbiased chance that a group of this size is all right or all wrong, averaged over prompts."""
    right_P, size_P = checked_counts((reward_PG > 0).sum(1), reward_PG.shape[1], [group_size])
    return float(np.mean(_miss(size_P - right_P, size_P, group_size) + _miss(right_P, size_P, group_size)))


def checked_counts(
    num_right_P: ArrayLike, num_samples_P: ArrayLike, ks: Sequence[int], *, first: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Counts as int ``[P]``; DataError if a count is impossible or a k larger than n."""
    right_P = np.asarray(num_right_P)
    right_P, size_P = np.broadcast_arrays(right_P, np.asarray(num_samples_P))
    if right_P.ndim != 1 or right_P.dtype.kind not in "iu" or size_P.dtype.kind not in "iu":
        raise DataError(f"num_right_P of shape {right_P.shape}, {right_P.dtype}: give one whole number per prompt")
    for p in np.flatnonzero((right_P < 0) | (right_P > size_P))[:1]:
        raise DataError(
            f"num_right = {right_P[p]} of prompt {first + p}: it has {size_P[p]} samples; give a number from 0 to that"
        )
    if not ks or min(ks) < 1:
        raise DataError(f"k = {list(ks)}: give whole numbers from 1")
    for p in np.flatnonzero(size_P < max(ks))[:1]:
        raise DataError(f"k = {max(ks)}: prompt {first + p} has {size_P[p]} samples; sample more or give a smaller k")
    return right_P.astype(int), size_P.astype(int)


def _miss(wrong_P: np.ndarray, size_P: np.ndarray, k: int) -> np.ndarray:
    """C(wrong, k) / C(size, k): chance that k samples, drawn without repetition, are all wrong.

    Two products give it, k factors (wrong - j) / (size - j) or one factor per right sample; the shorter is used.
    """
    miss_P = np.empty(len(wrong_P))
    for wrong, size in {(int(w), int(n)) for w, n in zip(wrong_P, size_P, strict=True)}:
        right = size - wrong
        j = np.arange(min(k, right))
        top = wrong if k <= right else size - k
        miss = 0.0 if wrong < k else float(np.prod((top - j) / (size - j)))
        miss_P[(wrong_P == wrong) & (size_P == size)] = miss
    return miss_P


def _chance_of_top(size: int, k: int) -> np.ndarray:
    """``[N]``: C(n-r, k-1) / C(n, k), the chance that the r-th best of all is the best of k, by its ratios."""
    rank_N = np.arange(1, size)
    return k / size * np.concatenate([[1.0], np.cumprod(np.maximum(size - rank_N - k + 1, 0) / (size - rank_N))])
