"""Which answer wins? Candidates of one prompt in, weights and a winner out. Pure numpy.

``V(a)`` is the sum of the weights of the candidates that answer ``a``; the largest wins. With ``s`` the score of the
quality head, ``q`` the calibrated quality and rank 1 the best (equal values share their mean rank), the weights are:

=================== ==================================== ==========================================================
``majority``        1                                    self-consistency, arXiv 2203.11171
``rank``            (N - rank) / (N - 1); 1 if N = 1     ARRoL, arXiv 2603.24840: normalised in-prompt rank of s
``rank_floor``      (N - rank + 1) / N                   ours: the worst keeps 1/N
``quality``         q                                    ours: equals majority while q is constant
``score_prob``      sigmoid(s)                           ours, uncalibrated
``log_odds``        max(0, logit(q) + log(max(M,2)-1))   ours: M distinct answers, q in [.02, .98]; best for independent
                                                         candidates and evenly spread wrong answers
``softmax``         exp(s / T) / sum                     ours; T to 0 is ``best_of_n``
``best_of_n``       1 for the highest s                  control; several equal ones all vote
``confidence``      C                                    DeepConf, arXiv 2508.15260; the caller chooses the measure
``quality_confidence``  q * rank_floor of C              ours
=================== ==================================== ==========================================================

:func:`top_percent` (DeepConf's filter) and :func:`for_full_pool` (w / survival) wrap any rule.

Answers are equivalence classes, built once by the verifier: small integers, -1 where nothing could be read. A candidate
without an answer has no vote and counts in N; without any vote the result is -1, which is wrong. Ties: larger count,
larger single weight, lower index. A rule never sees the right answer.

Deviations, ours: (1) the sum of rank weights is our reading of ARRoL's text; (2) the filter's percentile is taken over
candidates with an answer, as in DeepConf's code; their weights are those of the whole pool.

Worked example: scores 2, 1, .5, -1 for answers A, B, B, C give rank weights 1, 2/3, 1/3, 0, so A and B are tied and the
larger count decides for B::

    >>> import numpy as np
    >>> result = vote(Ballots(np.array([0, 1, 1, 2]), score_N=np.array([2.0, 1.0, 0.5, -1.0])), "rank")
    >>> result.answer, result.is_tied
    (1, True)

Legend: ``N`` candidates of a prompt or of a subset of them, always the last axis; ``S`` subsets; ``M`` answer classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from arrol.errors import ConfigError, DataError
from arrol.test_time.confidence import keep_top_percent
from arrol.test_time.totals import VoteTotals

MIN_QUALITY, MAX_QUALITY = 0.02, 0.98
"""``log_odds`` clips quality to this range, since candidates of a prompt are not independent."""


@dataclass(frozen=True)
class Ballots:
    """What a vote reads of the candidates of one prompt: columns ``[N]``, or ``[S, N]`` for many subsets at once."""

    answer_N: np.ndarray
    """Class of the answer, from 0; -1 where nothing could be read."""
    score_N: np.ndarray | None = None
    """Raw output of the quality head."""
    quality_N: np.ndarray | None = None
    """Calibrated probability of being right, in [0, 1]."""
    confidence_N: np.ndarray | None = None
    """A DeepConf measure of the trace, at least 0."""
    survival_N: np.ndarray | None = None
    """Probability, in (0, 1], of not having been pruned."""

    def __post_init__(self) -> None:
        answer_N = np.asarray(self.answer_N)
        if (answer_N.dtype.kind not in "iu" and answer_N.size) or answer_N.ndim == 0:
            raise DataError(f"answer_N of type {answer_N.dtype}: give one class number per candidate, -1 for no answer")
        object.__setattr__(self, "answer_N", answer_N.astype(int, copy=False))
        for name, values in self.known.items():
            if np.shape(values) != answer_N.shape:
                raise DataError(
                    f"{name}_N of shape {np.shape(values)}: {answer_N.shape} answers; give one per candidate"
                )
            object.__setattr__(self, f"{name}_N", np.asarray(values, float))

    @property
    def known(self) -> dict[str, np.ndarray]:
        """score, quality, confidence and survival, as far as they are given."""
        fields = {name.removesuffix("_N"): values for name, values in vars(self).items() if name != "answer_N"}
        return {name: values for name, values in fields.items() if values is not None}

    def take(self, index: np.ndarray) -> Ballots:
        """Some of the candidates of one prompt, ``[N]``, or subsets of them, ``[S, N]``."""
        return Ballots(self.answer_N[index], **{f"{name}_N": values[index] for name, values in self.known.items()})


WeightRule = Callable[[Ballots], np.ndarray]
"""Ballots to weights of the same shape, finite and at least 0; NaN for a candidate without a vote."""


class Vote(NamedTuple):
    """The result for one prompt."""

    answer: int
    """Class that won; -1 without any vote."""
    share: float
    """V(winner) / sum V, DeepConf's consensus; of counts where all weights are 0; 0 without any vote."""
    num_votes: int
    is_tied: bool
    """Several classes have the largest V."""


def majority(ballots: Ballots) -> np.ndarray:
    """Weight 1 for each candidate."""
    return np.ones(ballots.answer_N.shape)


def rank(ballots: Ballots) -> np.ndarray:
    """Best 1, worst 0, evenly spaced."""
    score_N = _known(ballots, "score")
    count = score_N.shape[-1]
    return np.ones(score_N.shape) if count == 1 else (count - mean_ranks(score_N)) / (count - 1)


def rank_floor(ballots: Ballots, by: str = "score") -> np.ndarray:
    """Best 1, worst 1/N."""
    values_N = _known(ballots, by)
    count = values_N.shape[-1]
    return (count - mean_ranks(values_N) + 1) / max(count, 1)


def quality(ballots: Ballots) -> np.ndarray:
    """The calibrated quality itself."""
    return _known(ballots, "quality")


def score_prob(ballots: Ballots) -> np.ndarray:
    """Sigmoid of the score."""
    return 0.5 * (1 + np.tanh(_known(ballots, "score") / 2))


def log_odds(ballots: Ballots) -> np.ndarray:
    """Log odds of being right against M - 1 evenly spread wrong answers, at least 0."""
    capped_N = np.clip(_known(ballots, "quality"), MIN_QUALITY, MAX_QUALITY)
    others = np.maximum(distinct_answers(ballots.answer_N), 2) - 1
    return np.maximum(0.0, np.log(capped_N / (1 - capped_N)) + np.log(others)[..., None])


def softmax(ballots: Ballots, temperature: float = 1.0) -> np.ndarray:
    """Shares of exp(score / temperature)."""
    if not temperature > 0:
        raise ConfigError(f"temperature = {temperature}: give a number above 0, or vote by best_of_n")
    score_N = _known(ballots, "score")
    raised_N = np.exp((score_N - score_N.max(-1, keepdims=True, initial=-np.inf)) / temperature)
    return raised_N / raised_N.sum(-1, keepdims=True)


def best_of_n(ballots: Ballots) -> np.ndarray:
    """1 for the highest score among the candidates with an answer, else 0."""
    score_N = np.where(ballots.answer_N >= 0, _known(ballots, "score"), -np.inf)
    return (score_N == score_N.max(-1, keepdims=True, initial=-np.inf)).astype(float)


def confidence(ballots: Ballots) -> np.ndarray:
    """DeepConf: the confidence measure itself."""
    return _known(ballots, "confidence")


def quality_confidence(ballots: Ballots) -> np.ndarray:
    """Quality times the rank of the confidence, since confidence itself has no fixed scale."""
    return _known(ballots, "quality") * rank_floor(ballots, by="confidence")


def top_percent(rule: WeightRule, percent: float, by: str = "confidence") -> WeightRule:
    """The same rule, but only the top ``percent`` of the candidates with an answer vote, sorted ``by`` that field."""

    def filtered(ballots: Ballots) -> np.ndarray:
        kept_N = keep_top_percent(_known(ballots, by), percent, ballots.answer_N >= 0)
        return np.where(kept_N, rule(ballots), np.nan)

    return filtered


def for_full_pool(rule: WeightRule) -> WeightRule:
    """The same rule divided by survival: in expectation V before pruning, if weights do not depend on siblings."""

    def corrected(ballots: Ballots) -> np.ndarray:
        survival_N = _known(ballots, "survival")
        if not ((survival_N > 0) & (survival_N <= 1)).all():
            raise DataError(f"survival = {survival_N.min()}: give probabilities above 0 and at most 1")
        return rule(ballots) / survival_N

    return corrected


RULES: dict[str, WeightRule] = {
    "best_of_n": best_of_n,
    "confidence": confidence,
    "log_odds": log_odds,
    "majority": majority,
    "quality": quality,
    "quality_confidence": quality_confidence,
    "rank": rank,
    "rank_floor": rank_floor,
    "score_prob": score_prob,
    "softmax": softmax,
    "top_percent": top_percent(confidence, 10),
}
"""Name -> rule; ``top_percent`` is DeepConf offline with its aggressive filter."""


def vote_rule(rule: str | WeightRule) -> WeightRule:
    """The rule of that name; a function is returned as it is."""
    if not isinstance(rule, str):
        return rule
    if rule not in RULES:
        raise ConfigError(f"vote = {rule!r}: not a rule; choose from {', '.join(RULES)}")
    return RULES[rule]


def vote(ballots: Ballots, rule: str | WeightRule = "majority") -> Vote:
    """The winner among the candidates of one prompt, by the tie rule above."""
    if ballots.answer_N.ndim != 1:
        raise DataError(f"answer_N of shape {ballots.answer_N.shape}: vote() takes one prompt; give one axis")
    if not ballots.answer_N.size:
        return Vote(-1, 0.0, 0, False)
    known_M, class_N = np.unique(ballots.answer_N, return_inverse=True)
    class_SN = np.where(ballots.answer_N < 0, -1, class_N)[None]
    totals = VoteTotals.of(class_SN, weights(ballots, rule)[None], len(known_M))
    winner = int(totals.winners()[0])
    if winner < 0:
        return Vote(-1, 0.0, 0, False)
    value_M = totals.value_SM[0]
    share = float(value_M[winner] / value_M.sum())
    return Vote(int(known_M[winner]), share, int(totals.count_SM[0].sum()), bool(totals.leaders_SM[0].sum() > 1))


def leading_share(ballots: Ballots, rule: str | WeightRule = "majority") -> tuple[float, int]:
    """``share`` and ``num_votes`` of :func:`vote`, in less time, for a check at the end of every trace."""
    total: dict[int, float] = {}
    count: dict[int, int] = {}
    for answer, weight in zip(ballots.answer_N.tolist(), weights(ballots, rule).tolist(), strict=True):
        if answer >= 0 and not math.isnan(weight):
            total[answer] = total.get(answer, 0.0) + weight
            count[answer] = count.get(answer, 0) + 1
    value = total if any(total.values()) else count
    return (max(value.values()) / sum(value.values()) if value else 0.0), sum(count.values())


def weights(ballots: Ballots, rule: str | WeightRule) -> np.ndarray:
    """The rule's weights, checked."""
    weight_N = vote_rule(rule)(ballots)
    if not (((weight_N >= 0) & (weight_N < np.inf)) | np.isnan(weight_N)).all():
        bad = weight_N[(weight_N < 0) | np.isinf(weight_N)][0]
        raise DataError(f"weight = {bad}: must be finite and at least 0; map the values of the rule first")
    return weight_N


def mean_ranks(values_N: np.ndarray) -> np.ndarray:
    """float64, the same shape: rank along the last axis, 1 for the largest; equal values get their mean rank."""
    order_N = np.argsort(-values_N, axis=-1)
    sorted_N = np.take_along_axis(values_N, order_N, -1)
    rank_N = np.broadcast_to(np.arange(1.0, values_N.shape[-1] + 1), values_N.shape)
    differs_N = sorted_N[..., 1:] != sorted_N[..., :-1]
    if not differs_N.all():
        edge_N = np.ones((*values_N.shape[:-1], 1), bool)
        first_N = np.maximum.accumulate(np.where(np.concatenate([edge_N, differs_N], -1), rank_N, 0.0), axis=-1)
        ends_N = np.where(np.concatenate([differs_N, edge_N], -1), rank_N, np.inf)
        rank_N = (first_N + np.minimum.accumulate(ends_N[..., ::-1], axis=-1)[..., ::-1]) / 2
    ranks_N = np.empty(values_N.shape)
    np.put_along_axis(ranks_N, order_N, rank_N, -1)
    return ranks_N


def distinct_answers(answer_N: np.ndarray) -> np.ndarray:
    """int, one axis less: number of different answers; -1 is none."""
    sorted_N = np.sort(answer_N, axis=-1)
    is_new_N = np.concatenate([sorted_N[..., :1] >= 0, sorted_N[..., 1:] != sorted_N[..., :-1]], -1)
    return (is_new_N & (sorted_N >= 0)).sum(-1)


def right_classes(answer_N: np.ndarray, right_N: np.ndarray) -> np.ndarray:
    """int, ascending: classes whose members are right; to score a vote, never to weight it.

    DataError where a class has right and wrong members, or a candidate is right without an answer.
    """
    answer_N, right_N = np.asarray(answer_N), np.asarray(right_N, bool)
    right_M, wrong_M = np.unique(answer_N[right_N]), np.unique(answer_N[~right_N])
    mixed = np.intersect1d(right_M, wrong_M)
    if mixed.size and mixed[-1] >= 0:
        raise DataError(
            f"answer class {mixed[-1]} has right and wrong members; build classes with the verifier's own equivalence"
        )
    if right_M.size and right_M[0] < 0:
        raise DataError(
            "answer = -1 and right = True: a right candidate needs an answer; give it the class of its answer"
        )
    return right_M


def _known(ballots: Ballots, name: str) -> np.ndarray:
    """A column that a rule reads, complete and in its range."""
    values_N = ballots.known.get(name)
    if values_N is None:
        raise DataError(f"{name}_N = None: the vote reads this column; give one number per candidate")
    if not np.isfinite(values_N).all():
        bad = values_N[~np.isfinite(values_N)][0]
        raise DataError(
            f"{name} = {bad}: this vote needs a finite number per candidate; leave out candidates without one"
        )
    if name == "quality" and values_N.size and not (values_N.min() >= 0 and values_N.max() <= 1):
        raise DataError(f"quality in [{values_N.min()}, {values_N.max()}]: give calibrated probabilities in [0, 1]")
    return values_N
