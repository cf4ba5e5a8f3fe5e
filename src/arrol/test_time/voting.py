"""Which answer do we believe? Candidates of one prompt in, weights and a winner out. Pure numpy.

``V(a)`` is the sum of the weights of the candidates that answer ``a``; the winner has the largest. Weights, with ``s``
the score of the quality head, ``q`` the calibrated quality, rank 1 the best (equal values share the mean rank):

=================== ==================================== ==========================================================
``majority``        1                                    self-consistency, arXiv 2203.11171
``rank``            (N - rank) / (N - 1); 1 if N = 1     ARRoL, arXiv 2603.24840: normalised in-prompt rank of s
``rank_floor``      (N - rank + 1) / N                   ours: the worst keeps 1/N
``quality``         q                                    ours: falls back to majority when the head knows nothing
``score_prob``      sigmoid(s)                           ours, uncalibrated
``log_odds``        max(0, logit(q) + log(max(M,2)-1))   ours; M distinct answers, q in [.02, .98]. Best for independent
                                                         candidates and evenly spread wrong answers: neither holds
``softmax``         exp(s / T) / sum                     ours; T to 0 is ``best_of_n``
``best_of_n``       1 for the highest s                  control
``confidence``      C                                    DeepConf, arXiv 2508.15260; which C is the caller's choice
``quality_confidence``  q * rank_floor of C              ours
=================== ==================================== ==========================================================

Around any rule: :func:`top_percent` (DeepConf's filter) and :func:`for_full_pool` (w / survival, to estimate the vote
of a pool before it was pruned).

Rules common to every vote, ours: answers are equivalence classes built once by the verifier, small integers, -1 where
nothing could be read. Such a candidate has no vote, yet it counts in N. Nobody has a vote: the result is -1, which is
wrong. Ties: larger count, larger single weight, lower index. A rule never sees the right answer.

Deviations: (1) the sum of rank weights is our reading of ARRoL's text; (2) the filter's percentile is taken over
readable candidates, as in DeepConf's code; the weights inside it are those of the whole pool; (3) ``best_of_n`` looks
at readable candidates, several equal ones all vote; (4) totals within 1e-9 of each other, relatively, are tied, since
1/3 + 2/3 is 1 on paper.

Worked example (executed by the tests): scores 2, 1, .5, -1 for answers A, B, B, C give rank weights 1, 2/3, 1/3, 0, so
A and B are tied, and the larger count gives B::

    >>> import numpy as np
    >>> result = vote(Ballots(np.array([0, 1, 1, 2]), score_N=np.array([2.0, 1.0, 0.5, -1.0])), "rank")
    >>> result.answer, result.is_tied
    (1, True)

Legend: ``N`` candidates of a prompt or of a subset of them, always the last axis; ``S`` subsets; ``M`` answer classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import NamedTuple

import numpy as np

from arrol.errors import ConfigError, DataError
from arrol.test_time.confidence import keep_top_percent
from arrol.test_time.tally import Tally

MIN_QUALITY, MAX_QUALITY = 0.02, 0.98
"""``log_odds`` believes no quality to be nearer to 0 or 1: candidates of a prompt are not independent."""


@dataclass(frozen=True)
class Ballots:
    """What a vote may know of the candidates of one prompt; ``[N]``, or ``[S, N]`` for many subsets at once."""

    answer_N: np.ndarray
    """Class of the answer, from 0; -1 where nothing could be read."""
    score_N: np.ndarray | None = None
    """Raw output of the quality head."""
    quality_N: np.ndarray | None = None
    """Calibrated probability of being right, in [0, 1]."""
    confidence_N: np.ndarray | None = None
    """A DeepConf measure of the trace, at least 0."""
    survival_N: np.ndarray | None = None
    """Probability, in (0, 1], with which it was left in the pool."""

    def __post_init__(self) -> None:
        answer_N = np.asarray(self.answer_N)
        if (answer_N.dtype.kind not in "iu" and answer_N.size) or answer_N.ndim == 0:
            raise DataError(f"answer_N of type {answer_N.dtype}: give one class number per candidate, -1 for no answer")
        object.__setattr__(self, "answer_N", answer_N.astype(int, copy=False))
        for info in fields(self)[1:]:
            if (values := getattr(self, info.name)) is not None:
                if np.shape(values) != answer_N.shape:
                    raise DataError(
                        f"{info.name} of shape {np.shape(values)}: {answer_N.shape} answers; give one per candidate"
                    )
                object.__setattr__(self, info.name, np.asarray(values, float))

    def take(self, index: np.ndarray) -> Ballots:
        """Some of the candidates of one prompt, ``[N]``, or subsets of them, ``[S, N]``."""

        def part(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[index]

        return Ballots(
            self.answer_N[index],
            part(self.score_N),
            part(self.quality_N),
            part(self.confidence_N),
            part(self.survival_N),
        )


WeightRule = Callable[[Ballots], np.ndarray]
"""Ballots to weights of the same shape, finite and at least 0; NaN for a candidate that shall not vote."""


class Vote(NamedTuple):
    """The result for one prompt."""

    answer: int
    """Class that won; -1 when nobody had a vote."""
    share: float
    """V(winner) / sum V, the consensus of DeepConf; of the counts where all weights are 0; 0 when nobody voted."""
    num_votes: int
    is_tied: bool
    """Weights alone did not decide."""


def majority(ballots: Ballots) -> np.ndarray:
    """One candidate, one vote."""
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
    """The calibrated probability itself."""
    return _known(ballots, "quality")


def score_prob(ballots: Ballots) -> np.ndarray:
    """Sigmoid of the score."""
    return 0.5 * (1 + np.tanh(_known(ballots, "score") / 2))


def log_odds(ballots: Ballots) -> np.ndarray:
    """Weight of the evidence, never negative; M counts readable answers."""
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
    """The highest score among the readable."""
    score_N = np.where(ballots.answer_N >= 0, _known(ballots, "score"), -np.inf)
    return (score_N == score_N.max(-1, keepdims=True, initial=-np.inf)).astype(float)


def confidence(ballots: Ballots) -> np.ndarray:
    """DeepConf: the measure of the trace itself."""
    return _known(ballots, "confidence")


def quality_confidence(ballots: Ballots) -> np.ndarray:
    """Quality times confidence rank: the rank, because confidence has no scale that could be multiplied."""
    return _known(ballots, "quality") * rank_floor(ballots, by="confidence")


def top_percent(rule: WeightRule, percent: float, by: str = "confidence") -> WeightRule:
    """The same rule, but only the top ``percent`` of the readable candidates ``by`` that field have a vote."""

    def filtered(ballots: Ballots) -> np.ndarray:
        kept_N = keep_top_percent(_known(ballots, by), percent, ballots.answer_N >= 0)
        return np.where(kept_N, rule(ballots), np.nan)

    return filtered


def for_full_pool(rule: WeightRule) -> WeightRule:
    """The same rule divided by survival: in expectation V of the pool before pruning, where weights ignore siblings."""

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


def vote_rule(
    name: str | WeightRule,
    *,
    keep_percent: float | None = None,
    filter_by: str = "confidence",
    temperature: float | None = None,
    full_pool: bool = False,
) -> WeightRule:
    """A rule from what a config can say; a function is taken as it is."""
    if isinstance(name, str):
        if name not in RULES:
            raise ConfigError(f"vote = {name!r}: not a rule; choose from {', '.join(RULES)}")
        rule = RULES[name]
    else:
        rule = name
    if temperature is not None:
        if name != "softmax":
            raise ConfigError(f"temperature = {temperature}: only vote = 'softmax' has one; leave it out")
        rule = partial(softmax, temperature=temperature)
    rule = for_full_pool(rule) if full_pool else rule
    return rule if keep_percent is None else top_percent(rule, keep_percent, filter_by)


def vote(ballots: Ballots, rule: str | WeightRule = "majority") -> Vote:
    """The winner among the candidates of one prompt, with the tie rule above."""
    if ballots.answer_N.ndim != 1:
        raise DataError(f"answer_N of shape {ballots.answer_N.shape}: a vote is about one prompt; give one axis")
    if not ballots.answer_N.size:
        return Vote(-1, 0.0, 0, False)
    known_M, class_N = np.unique(ballots.answer_N, return_inverse=True)
    tally = Tally.of(np.where(ballots.answer_N < 0, -1, class_N)[None], weights(ballots, rule)[None], len(known_M))
    winner = int(tally.winners()[0])
    if winner < 0:
        return Vote(-1, 0.0, 0, False)
    value_M = tally.value_SM[0]
    share = float(value_M[winner] / value_M.sum())
    return Vote(int(known_M[winner]), share, int(tally.count_SM[0].sum()), bool(tally.leaders_SM[0].sum() > 1))


def leading_share(ballots: Ballots, rule: str | WeightRule = "majority") -> tuple[float, int]:
    """``share`` and ``num_votes`` of :func:`vote`, in less time: asked whenever a trace ends."""
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
        raise DataError(f"weight = {bad}: votes are finite and at least 0; map the values to such numbers first")
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
    """int, one axis less: different readable answers."""
    sorted_N = np.sort(answer_N, axis=-1)
    is_new_N = np.concatenate([sorted_N[..., :1] >= 0, sorted_N[..., 1:] != sorted_N[..., :-1]], -1)
    return (is_new_N & (sorted_N >= 0)).sum(-1)


def effective_number(weight_N: np.ndarray) -> float:
    """Votes of weight one that would be as certain: (sum w)^2 / sum w^2. Rank weights: N 3(N-1) / (2(2N-1))."""
    return float(np.nansum(weight_N) ** 2 / np.nansum(np.square(weight_N)))


def right_classes(answer_N: np.ndarray, right_N: np.ndarray) -> np.ndarray:
    """int, ascending: classes whose members are right. For judges of a vote, not for its rules.

    Refused where a class has right and wrong members, or a candidate is right without an answer.
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
            "answer = -1 and right = True: a right candidate has an answer; give it the class of its answer"
        )
    return right_M


def _known(ballots: Ballots, name: str) -> np.ndarray:
    """A field that a rule reads, complete and in its range."""
    values_N: np.ndarray | None = getattr(ballots, f"{name}_N", None)
    if values_N is None:
        raise DataError(f"{name} = None: this vote reads it; give one per candidate or choose another vote")
    if not np.isfinite(values_N).all():
        bad = values_N[~np.isfinite(values_N)][0]
        raise DataError(f"{name} = {bad}: this vote needs a number per candidate; leave out candidates without one")
    if name == "quality" and values_N.size and not (values_N.min() >= 0 and values_N.max() <= 1):
        raise DataError(f"quality in [{values_N.min()}, {values_N.max()}]: give calibrated probabilities in [0, 1]")
    return values_N
