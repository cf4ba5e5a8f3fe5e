"""Score to quality: an online binned posterior (arXiv 2603.24840, section 4 of the method notes).

Bins b = floor(num_bins * sigmoid(score)). With c+ and c- the (weighted) counts of right and wrong records per bin and
pi the share of right ones:

* ``binned``  as published: Laplace-smoothed P(b | right) and P(b | wrong), then Bayes with prior pi:
              q = pi P(b|right) / (pi P(b|right) + (1 - pi) P(b|wrong)). An empty bin gives about 0.5.
* ``shrunk``  ours: q = (c+ + alpha pi) / (c+ + c- + alpha). An empty bin gives pi.

Deviations: (1) records count 1/survival times, unless labels are unweighted; (2) scores are those given at the probe,
before the outcome was known (never rescored by the refitted head), so the table is honest about unseen rollouts; only
the newest ``CALIBRATION_SIZE`` are used, since the head moves on; (3) until each class has ``min_class_records``,
quality is pi for all; (4) without pseudo counts an empty bin gives pi, where the published rule is 0/0.
Legend: ``B`` bins, ``C`` candidates, ``N`` records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from arrol.configs.method import QualityConfig
from arrol.types import State

CALIBRATION_SIZE = 1024
"""Newest scored records that make the table."""


def sigmoid(score: np.ndarray) -> np.ndarray:
    """Overflow-free logistic function."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(score, float)))


def bins(score_C: np.ndarray, num_bins: int) -> np.ndarray:
    """int ``[C]``: bin of each score, ``0 .. num_bins - 1``."""
    return np.minimum(num_bins - 1, np.floor(num_bins * sigmoid(score_C)).astype(int))


def binned_posterior(right_B: np.ndarray, wrong_B: np.ndarray, prior: float, pseudo_count: float) -> np.ndarray:
    """``[B]`` in [0, 1]: the published rule; the prior where it is 0/0 (an empty bin without ``pseudo_count``)."""
    num_bins = len(right_B)
    given_right = (right_B + pseudo_count) / (right_B.sum() + pseudo_count * num_bins)
    given_wrong = (wrong_B + pseudo_count) / (wrong_B.sum() + pseudo_count * num_bins)
    joint, total = prior * given_right, prior * given_right + (1 - prior) * given_wrong
    return np.where(total > 0, joint / np.where(total > 0, total, 1.0), prior)


def shrunk_rates(right_B: np.ndarray, wrong_B: np.ndarray, prior: float, pseudo_count: float) -> np.ndarray:
    """``[B]`` in [0, 1]: success rate of each bin, pulled to the prior."""
    total_B = right_B + wrong_B + pseudo_count
    return np.where(total_B > 0, (right_B + pseudo_count * prior) / np.maximum(total_B, 1e-12), prior)


class Calibration:
    """The table of one probe; refitted from the buffer after every step."""

    def __init__(self, config: QualityConfig) -> None:
        self._config = config
        self.prior = 0.5
        """Share of right records."""
        self.quality_B = np.full(config.num_bins, 0.5)
        self.is_ready = False
        """False until both classes have been seen often enough; quality is then the prior."""

    def quality(self, score_C: np.ndarray) -> np.ndarray:
        """``[C]`` in [0, 1]; NaN where the score is NaN."""
        quality_C = np.full(len(score_C), self.prior)
        known = ~np.isnan(score_C)
        if self.is_ready:
            quality_C[known] = self.quality_B[bins(score_C[known], self._config.num_bins)]
        return np.where(known, quality_C, np.nan)

    def refit(self, score_N: np.ndarray, label_N: np.ndarray, weight_N: np.ndarray) -> None:
        """Rebuild the table from records, oldest first."""
        if len(label_N):
            self.prior = float(np.average(label_N, weights=weight_N))
        known = np.flatnonzero(np.isfinite(score_N))[-CALIBRATION_SIZE:]
        score_N, right_N, weight_N = score_N[known], label_N[known] > 0.5, weight_N[known]
        enough = min(int(right_N.sum()), int((~right_N).sum())) >= self._config.min_class_records
        if not enough:
            self.is_ready = False
            return
        bin_N, num_bins = bins(score_N, self._config.num_bins), self._config.num_bins
        right_B = np.bincount(bin_N, weight_N * right_N, num_bins)
        wrong_B = np.bincount(bin_N, weight_N * ~right_N, num_bins)
        rule = binned_posterior if self._config.calibration == "binned" else shrunk_rates
        prior = float(right_B.sum() / (right_B.sum() + wrong_B.sum()))
        self.quality_B = rule(right_B, wrong_B, prior, self._config.pseudo_count)
        self.is_ready = True

    def save(self) -> State:
        return {"prior": self.prior, "quality": self.quality_B, "is_ready": self.is_ready}

    def load(self, state: State) -> None:
        self.prior = float(cast(float, state["prior"]))
        self.quality_B = np.asarray(state["quality"], float)
        self.is_ready = bool(state["is_ready"])


class ScoredEstimator:
    """The newest tables of a head that scores elsewhere: tables alone, numpy alone."""

    def __init__(self) -> None:
        self.version = 0
        self.calibrations: dict[int, Calibration] = {}
        """Probe length -> its table."""

    @property
    def probe_tokens(self) -> tuple[int, ...]:
        """Probes of the head; empty before the first :meth:`load`."""
        return tuple(self.calibrations)

    def at(self, probe_tokens: Sequence[int], *, headless: float = np.nan) -> ProbeTables:
        """For a rule with these probes; it follows every :meth:`load`. ``headless`` is the quality before the first."""
        return ProbeTables(self, tuple(probe_tokens), headless)

    def load(self, state: State) -> None:
        """The tables of ``EstimatorSnapshot.tables``."""
        tables, self.calibrations = cast(list[State], state["tables"]), {}
        for length, table in zip(cast(list[int], state["probe_tokens"]), tables, strict=True):
            calibration = Calibration(QualityConfig(num_bins=len(cast(list, table["quality"]))))
            calibration.load(table)
            self.calibrations[int(length)] = calibration
        self.version = int(cast(int, state["version"]))


class ProbeTables:
    """An :class:`arrol.protocols.Estimator` over the tables of :class:`ScoredEstimator`, by the length of the probe."""

    def __init__(self, tables: ScoredEstimator, probe_tokens: tuple[int, ...], headless: float = np.nan) -> None:
        self._tables, self._probe_tokens, self._headless = tables, probe_tokens, headless

    @property
    def version(self) -> int:
        return self._tables.version

    def scores(self, features_CF: np.ndarray, probe: int) -> np.ndarray:
        """NaN for all: there is no head here."""
        return np.full(len(features_CF), np.nan)

    def quality(self, score_C: np.ndarray, probe: int) -> np.ndarray:
        """float64 ``[C]`` in [0, 1]; NaN where the head was not trained at this length."""
        calibration = self._tables.calibrations.get(self._probe_tokens[probe])
        if calibration is None:
            return np.full(len(score_C), np.nan if self._tables.calibrations else self._headless)
        return calibration.quality(np.asarray(score_C, float))


class ConfidenceEstimator:
    """An :class:`arrol.protocols.Estimator` without a head: the score is a mean log-probability, its exponential stands
    for quality. It ranks, it is not calibrated."""

    version = 0

    def scores(self, features_CF: np.ndarray, probe: int) -> np.ndarray:
        """NaN for all: there is no head here."""
        return np.full(len(features_CF), np.nan)

    def quality(self, score_C: np.ndarray, probe: int) -> np.ndarray:
        """float64 ``[C]`` in [0, 1]."""
        return np.exp(np.minimum(np.asarray(score_C, float), 0.0))
