"""How good is the head? AUROC pooled and within prompt, Brier score, expected calibration error.

The pooled AUROC mostly measures prompt difficulty; only the one within prompts says whether siblings can be told apart.
All are weighted, so that with weights 1/survival they speak of all candidates and not of survivors only.
Legend: ``N`` records.
"""

from __future__ import annotations

import numpy as np


def auroc(score_N: np.ndarray, label_N: np.ndarray, weight_N: np.ndarray | None = None) -> float:
    """Chance that a right record outscores a wrong one, ties half; NaN without both classes."""
    wins, pairs = _pairs(score_N, label_N, _weights(label_N, weight_N))
    return wins / pairs if pairs > 0 else float("nan")


def auroc_within(
    score_N: np.ndarray, label_N: np.ndarray, group_N: np.ndarray, weight_N: np.ndarray | None = None
) -> float:
    """The same over pairs of one prompt; pairs of all prompts pooled; NaN when no prompt has both classes."""
    weight_N = _weights(label_N, weight_N)
    total_wins = total_pairs = 0.0
    for group in np.unique(group_N):
        rows = group_N == group
        wins, pairs = _pairs(score_N[rows], label_N[rows], weight_N[rows])
        total_wins, total_pairs = total_wins + wins, total_pairs + pairs
    return total_wins / total_pairs if total_pairs > 0 else float("nan")


def brier(quality_N: np.ndarray, label_N: np.ndarray, weight_N: np.ndarray | None = None) -> float:
    """Mean squared error of the probability; NaN without records."""
    if not len(label_N):
        return float("nan")
    return float(np.average((quality_N - label_N) ** 2, weights=_weights(label_N, weight_N)))


def expected_calibration_error(
    quality_N: np.ndarray, label_N: np.ndarray, weight_N: np.ndarray | None = None, num_bins: int = 10
) -> float:
    """Mean gap of predicted and realised rate over equal-width bins, weighted by their mass; NaN without records."""
    if not len(label_N):
        return float("nan")
    weight_N = _weights(label_N, weight_N)
    bin_N = np.minimum(num_bins - 1, (num_bins * quality_N).astype(int))
    gap_B = np.bincount(bin_N, weight_N * (label_N - quality_N), num_bins)
    return float(np.abs(gap_B).sum() / weight_N.sum())


def _weights(label_N: np.ndarray, weight_N: np.ndarray | None) -> np.ndarray:
    return np.ones(len(label_N)) if weight_N is None else np.asarray(weight_N, float)


def _pairs(score_N: np.ndarray, label_N: np.ndarray, weight_N: np.ndarray) -> tuple[float, float]:
    """Weighted wins of right over wrong records, and weighted number of pairs. ``V`` values of the score, ascending."""
    values, place_N = np.unique(np.asarray(score_N), return_inverse=True)
    is_right_N = np.asarray(label_N) > 0.5
    right_V, wrong_V = (np.bincount(place_N[rows], weight_N[rows], len(values)) for rows in (is_right_N, ~is_right_N))
    below_V = np.cumsum(wrong_V) - wrong_V
    return float(right_V @ (below_V + 0.5 * wrong_V)), float(right_V.sum() * wrong_V.sum())
