"""The lottery: survival in, keep or stop out. Every draw is keyed by (seed, stream, step, group, ...), not by arrival.

* ``bernoulli``   independent; needs no siblings; the number kept varies.
* ``systematic``  one uniform number per pool; marginals are exactly p and the number kept is the sum of p, rounded down
                  or up (Madow's systematic sampling on a keyed random permutation).

Legend: ``C`` candidates.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from arrol.types import PruningDecision, RolloutId

ALL_UP_TO, PERMUTATIONS, OVERLAPS = 5, 512, 2**18
"""A joint survival is averaged over all permutations of so many candidates, over so many random ones of more; of many
candidates over fewer, so that the overlaps of their pairs stay about as many."""
RAREST = 0.1
"""A joint survival is at least this share of independent draws': no weight grows without bound."""
PRUNING_STREAM, ORACLE_STREAM = 1, 2
"""Second word of the key; token sampling has a stream of its own."""


def bernoulli(survival_C: np.ndarray, ids: Sequence[RolloutId], *, seed: int, probe: int) -> np.ndarray:
    """bool ``[C]``: each kept with its own probability, by its own number."""
    uniform_C = [np.random.default_rng([seed, PRUNING_STREAM, *rollout_id, probe]).random() for rollout_id in ids]
    return np.array(uniform_C, float).reshape(-1) < survival_C


def systematic(survival_C: np.ndarray, key: Sequence[int]) -> np.ndarray:
    """bool ``[C]``: an exact-count draw from one uniform number; ``key`` starts the generator.

    Candidates must come in an order that does not depend on arrival (sorted ids).
    """
    rng = np.random.default_rng(list(key))
    order = rng.permutation(len(survival_C))
    edges = np.concatenate([[0.0], np.cumsum(np.asarray(survival_C, float)[order])])
    # A sum that is a whole number up to rounding must not gain or lose one by that rounding.
    nearest = np.round(edges[-1])
    if abs(edges[-1] - nearest) < 1e-6 and edges[-1] > 0:
        edges *= nearest / edges[-1]
    marks = np.floor(edges - rng.random())
    kept = np.empty(len(survival_C), bool)
    kept[order] = marks[1:] > marks[:-1]
    return kept | (np.asarray(survival_C) >= 1.0)  # certainty is certainty, whatever the sums rounded to


def joint_survival(decisions_G: Sequence[PruningDecision | None]) -> np.ndarray | None:
    """float64 ``[G, G]`` in (0, 1]: the chance that two rollouts of a group both survive; None if none shared a draw.

    ``decisions_G``: the last decision about each rollout, None where there is none. A draw at a later probe, or of a
    later wave, knows the outcome of the draws before it, so the chances of several draws multiply. The diagonal means
    nothing.
    """
    survival_G = np.array([1.0 if decision is None else decision.survival for decision in decisions_G], float)
    assert ((survival_G > 0) & (survival_G <= 1)).all(), survival_G
    pools: dict[tuple[int, int], dict[int, float]] = {}
    for row, decision in enumerate(decisions_G):
        while decision is not None:
            before = 1.0 if decision.previous is None else decision.previous.survival
            if decision.pool is not None:
                pools.setdefault((decision.probe, decision.pool), {})[row] = min(decision.survival / before, 1.0)
            decision = decision.previous
    joint_GG = np.outer(survival_G, survival_G)
    for pool in pools.values():
        rows, p_C = np.array(list(pool)), np.array(list(pool.values()))
        joint_GG[np.ix_(rows, rows)] *= joint_systematic(p_C) / np.outer(p_C, p_C)
    return joint_GG if pools else None


def joint_systematic(p_C: np.ndarray) -> np.ndarray:
    """float64 ``[C, C]`` in (0, 1]: the chance that one exact-count draw keeps two candidates both.

    ``p_C`` in (0, 1]. The draw is a number on a circle of length 1, on which the candidates' arcs, p long, follow one
    another in permuted order: two are kept together where their arcs overlap; an arc of 1 is the whole circle.
    Averaged over permutations of a fixed seed, and exact where all p are equal. The diagonal means nothing.
    """
    joint_CC, drawn = np.outer(p_C, p_C), np.flatnonzero(p_C < 1)
    if len(drawn) > 1:
        p = p_C[drawn]
        together = _equal(p[0], len(p)) if np.ptp(p) < 1e-6 else _overlap(p)
        joint_CC[np.ix_(drawn, drawn)] = np.maximum(together, RAREST * joint_CC[np.ix_(drawn, drawn)])
    return joint_CC


def _equal(p: float, candidates: int) -> float:
    """All pairs of the same chance: the mean of K (K - 1) over the two counts K that are possible."""
    total = p * candidates
    low = np.floor(total + 1e-9)
    return float((low * (low - 1) + (total - low) * 2 * low) / (candidates * (candidates - 1)))


def _overlap(p_C: np.ndarray) -> np.ndarray:
    """float64 ``[C, C]``: mean overlap of two arcs. Legend: ``N`` permutations, ``P`` pairs."""
    first_P, second_P = np.triu_indices(len(p_C), 1)
    order_NC = _permutations(len(p_C))
    start_NC = np.empty(order_NC.shape)
    np.put_along_axis(start_NC, order_NC, np.cumsum(p_C[order_NC], axis=1) - p_C[order_NC], axis=1)
    offset_NP = start_NC[:, second_P] - start_NC[:, first_P]
    offset_NP -= np.floor(offset_NP)
    ends_NP = offset_NP + p_C[second_P]  # the second arc's, from the first one's start
    near_NP, around_NP = np.minimum(p_C[first_P], ends_NP) - offset_NP, np.minimum(p_C[first_P], ends_NP - 1)
    overlap_P = (np.maximum(near_NP, 0) + np.maximum(around_NP, 0)).mean(axis=0)
    overlap_CC = np.zeros((len(p_C), len(p_C)))
    overlap_CC[first_P, second_P] = overlap_CC[second_P, first_P] = overlap_P
    return overlap_CC


@lru_cache
def _permutations(size: int) -> np.ndarray:
    """int64 ``[N, C]``: all where they are few, else random ones of a fixed seed, fewer of many candidates."""
    if size <= ALL_UP_TO:
        return np.array(list(itertools.permutations(range(size))))
    number = int(np.clip(OVERLAPS // size**2, 16, PERMUTATIONS))
    return np.argsort(np.random.default_rng(0).random((number, size)), axis=1)
