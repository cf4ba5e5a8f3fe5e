"""The lottery: survival in, keep or stop out. Every draw is keyed by (seed, stream, step, group, ...), not by arrival.

* ``bernoulli``   independent; needs no siblings; the number kept varies.
* ``systematic``  one uniform number per pool; marginals are exactly p and the number kept is the sum of p, rounded down
                  or up (Madow's systematic sampling on a keyed random permutation).

Legend: ``C`` candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from arrol.types import RolloutId

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
