"""Published rules as designs: what a pool can say of each. From the papers' descriptions, not from their code.

* ``duet sizes``  arXiv 2605.08441: allocation rule ``duet``.
* ``duet stop``   of the rollouts that run 150 tokens beyond the 80 % quantile of lengths, 5 % go on and count 20 times;
                  the paper spares rollouts that have written an answer mark. Deviations: (1) a pool knows no marks, so
                  each rollout that still runs counts as unmarked; (2) the probe is the nearest that the pool has, and
                  the quantile's own where none lies 150 tokens beyond; (3) no stop after the mark.
* ``duet``        both.
* ``sara``        arXiv 2607.26253: allocation rule ``sara``.
* ``aero_cited``  AERO's section 3 as another paper cites it: explore 8, rescue by 2, at most 16 rollouts, one wrong per
                  right rollout below a success rate of one half, all above, baseline of the kept ones. Deviation: dead
                  groups do not train; there it is the posterior's constant.

A design's step has as many rollouts as the config's. ``aero_cited`` may spend twice its first wave on rescues.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arrol.lab.merit import Design
from arrol.lab.pool import Pool

QUANTILE, BEYOND, KEPT = 0.8, 150, 0.05
"""DUET's stop: quantile of the lengths, tokens beyond it, share that goes on."""
EXPLORE, RESCUE, TOTAL = 8, 2, 16
"""AERO as cited: rollouts of the first wave, of a rescue, and of a prompt at most."""


def peer_designs(pool: Pool, size: int, rows: int) -> list[Design]:
    """The peers at a mean group size; ``rows`` is the number of rollouts of a step."""
    sizes: dict[str, Any] = {"training": {"group_size": size}, "allocation": {"rule": "duet"}}
    designs = [Design(f"duet sizes, group of {size}", sizes)]
    probe = duet_probe(pool)
    if probe is not None:
        stop = {"rule": "uniform", "keep_ratio": KEPT, "min_survival": KEPT, "probe_tokens": [probe]}
        stop |= {"draw": "bernoulli", "min_survivors": 0}
        stopping: dict[str, Any] = {"pruning": stop, "algorithm": {"correction": "ipw"}}
        whole = {"training": {"group_size": size}}
        designs.append(Design(f"duet stop at {probe}, group of {size}", {**whole, **stopping}))
        designs.append(Design(f"duet, group of {size}", {**sizes, **stopping}))
    designs.append(Design(f"sara, group of {size}", {**sizes, "allocation": {"rule": "sara"}}))
    cited: dict[str, Any] = {
        "rule": "aero",
        "explore_size": EXPLORE,
        "rescue_step": RESCUE,
        "max_group": TOTAL,
        "rollout_budget": max(1, round(rows / EXPLORE)) * TOTAL,
        "rejection": {"wrong_ratio": 1.0, "baseline": "kept"},
        "posterior": {"used_for": "nothing"},
    }
    return [*designs, Design("aero_cited", {"training": {"group_size": EXPLORE}, "allocation": cited})]


def duet_probe(pool: Pool) -> int | None:
    """Where DUET stops; None where no rollout passes a probe of the pool."""
    length_C = pool.length_PN[pool.is_known_PN]
    passed = [tokens for tokens in pool.probe_tokens if pool.has_features and (length_C > tokens).any()]
    quantile = float(np.quantile(length_C, QUANTILE))
    wanted = quantile + BEYOND if passed and max(passed) >= quantile + BEYOND else quantile
    return min(passed, key=lambda tokens: abs(tokens - wanted), default=None)
