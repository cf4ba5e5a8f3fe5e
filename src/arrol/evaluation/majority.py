"""maj@k: accuracy of the vote of k samples, averaged over the k-subsets of the n samples of a prompt. Pure numpy.

Up to 20,000 subsets are enumerated, so the mean is exact; else it is over 1,000 seeded subsets, each drawn without
repetition. Weights are computed inside each subset, since ranks and percentiles depend on the other members. Ties split
evenly, credit [right in argmax] / |argmax|; ``deployed_ties`` applies the tie rule of ``test_time/totals.py`` instead,
as a deployed vote does. A subset without any vote is wrong.

Deviations, ours: (1) subsets of different k are prefixes of the same permutations, so that curves over k are smooth;
(2) the credits of two or more right classes add up; (3) a class with right and wrong members is refused, and so is a
right sample without an answer.

Legend: ``P`` prompts, ``K`` values of k, ``N`` samples of a prompt, ``S`` subsets, ``M`` answer classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations
from typing import NamedTuple

import numpy as np

from arrol.errors import DataError
from arrol.evaluation.metrics import checked_counts
from arrol.test_time.totals import VoteTotals
from arrol.test_time.voting import Ballots, WeightRule, right_classes, weights

SUBSET_STREAM = 5
"""Second word of the random key of every subset, before the prompt's number."""


@dataclass(frozen=True)
class SubsetPlan:
    """Number and seed of the subsets."""

    subsets: int = 1000
    exact_up_to: int = 20_000
    """Up to this number, all subsets are enumerated."""
    seed: int = 0

    def is_exact(self, size: int, k: int) -> bool:
        return math.comb(size, k) <= self.exact_up_to


DEFAULT_PLAN = SubsetPlan()


class SubsetVotes(NamedTuple):
    """Accuracy and ties per prompt and k."""

    right_PK: np.ndarray
    """float64: expected correctness of the vote."""
    tied_PK: np.ndarray
    """float64: share of subsets with a tie."""


def maj_at_k(
    ballots_P: Sequence[Ballots],
    right_P: Sequence[np.ndarray],
    ks: Sequence[int],
    *,
    rule: str | WeightRule = "majority",
    deployed_ties: bool = False,
    plan: SubsetPlan = DEFAULT_PLAN,
) -> SubsetVotes:
    """From the ballots and verdicts (bool ``[N]``) of each prompt; ``N`` may differ between prompts, at least k."""
    if len(ballots_P) != len(right_P):
        raise DataError(f"right_P of length {len(right_P)}: there are {len(ballots_P)} prompts; give verdicts for each")
    votes = SubsetVotes(np.zeros((len(ballots_P), len(ks))), np.zeros((len(ballots_P), len(ks))))
    first_of: dict[tuple[object, ...], int] = {}
    for p, (ballots, verdicts) in enumerate(zip(ballots_P, right_P, strict=True)):
        right_N = np.asarray(verdicts, bool)
        if rule == "majority" and all(plan.is_exact(right_N.size, k) for k in ks):  # without weights and draws
            same = first_of.setdefault((*ballots.answer_N.tolist(), *right_N.tolist()), p)
            if same != p:
                votes.right_PK[p], votes.tied_PK[p] = votes.right_PK[same], votes.tied_PK[same]
                continue
        class_N, is_right_M = _classes(ballots, right_N, ks, p)
        size, permuted_SN = len(class_N), None
        for column, k in enumerate(ks):
            if plan.is_exact(size, k):
                index_SK = _all_subsets(size, k)
            else:
                permuted_SN = _permutations(size, plan, p) if permuted_SN is None else permuted_SN
                index_SK = permuted_SN[:, :k]
            if deployed_ties:
                index_SK = np.sort(index_SK, axis=-1)
            weight_SK = None if rule == "majority" else weights(ballots.take(index_SK), rule)
            totals = VoteTotals.of(class_N[index_SK], weight_SK, len(is_right_M))
            leaders_SM = totals.leaders_SM
            num_leaders_S = leaders_SM.sum(-1)
            votes.tied_PK[p, column] = np.mean(num_leaders_S > 1)
            if deployed_ties:
                credit_S = np.append(is_right_M, False)[totals.winners()]  # -1, no vote, is the last: wrong
            else:
                credit_S = (leaders_SM @ is_right_M.astype(float)) / np.maximum(num_leaders_S, 1)
            votes.right_PK[p, column] = credit_S.mean()
    return votes


def _classes(ballots: Ballots, right_N: np.ndarray, ks: Sequence[int], p: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes numbered from 0 (-1 without an answer), and which of them are right."""
    if ballots.answer_N.ndim != 1 or ballots.answer_N.shape != right_N.shape:
        raise DataError(f"prompt {p}: {ballots.answer_N.shape} answers, {right_N.shape} verdicts; give one of each")
    checked_counts([right_N.sum()], [right_N.size], ks, first=p)
    try:
        right_M = right_classes(ballots.answer_N, right_N)
    except DataError as error:
        raise DataError(f"prompt {p}: {error}") from None
    known_M = np.unique(ballots.answer_N[ballots.answer_N >= 0])
    class_N = np.where(ballots.answer_N >= 0, np.searchsorted(known_M, ballots.answer_N), -1)
    return class_N, np.isin(known_M, right_M)


@lru_cache(maxsize=16)
def _all_subsets(size: int, k: int) -> np.ndarray:
    """int ``[S, k]``, indices ascending; cached, so read-only."""
    flat = np.fromiter(chain.from_iterable(combinations(range(size), k)), np.int32, math.comb(size, k) * k)
    flat.flags.writeable = False
    return flat.reshape(-1, k)


def _permutations(size: int, plan: SubsetPlan, p: int) -> np.ndarray:
    """int ``[S, N]``, keyed by the prompt's number, so that prompts are independent."""
    stream = np.random.default_rng([plan.seed, SUBSET_STREAM, p])
    return stream.permuted(np.tile(np.arange(size), (plan.subsets, 1)), axis=1)
