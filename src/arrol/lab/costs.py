"""What a step costs: a linear function of tokens generated, decode steps, tokens scored and tokens trained.

* ``flops``        2 : 2 : 6 per token and parameter, a decode step costs nothing of itself; the ledger's formula
* ``tokens g:u``   a generated token costs g, a trained one u
* ``measured``     seconds on the machine that collected the pool; a trained token is a sketched one
* ``1.3b 7b 13b``  seconds on a GPU: a decode step lasts t0 + t1 x live rows, so the longest rollouts set the end. t0
                   and t1 are from the raw data of arXiv 2503.08311 for an H100-class GPU (OPT models, no grouped
                   heads); the learner is assumed to reach MFU of the peak (ours)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from arrol.errors import ConfigError
from arrol.lab.pool import Pool

PEAK_FLOPS_PER_S, MFU = 989e12, 0.4
"""Dense bfloat16 of an H100, and the share of it that a learner is assumed to reach."""
DECODE = {"1.3b": (1.3e9, 3.6e-3, 0.10e-3), "7b": (6.7e9, 10.8e-3, 0.19e-3), "13b": (13e9, 19.6e-3, 0.28e-3)}
"""Parameters, seconds per decode step, seconds per live row of it."""


class Counts(NamedTuple):
    """What a step generates, scores and trains; arrays for several steps."""

    generated: float | np.ndarray
    """Tokens."""
    decode_steps: float | np.ndarray
    """Steps in which at least one rollout writes a token."""
    scored: float | np.ndarray
    """Tokens whose log-probability is computed without gradient."""
    trained: float | np.ndarray
    """Tokens that pass the learner with gradient."""


class CostModel(NamedTuple):
    """Cost of one unit of each count."""

    name: str
    generated: float
    decode_step: float
    scored: float
    trained: float
    is_seconds: bool = False

    def cost(self, counts: Counts) -> np.ndarray:
        """Same shape as the counts."""
        return np.asarray(
            self.generated * np.asarray(counts.generated)
            + self.decode_step * np.asarray(counts.decode_steps)
            + self.scored * np.asarray(counts.scored)
            + self.trained * np.asarray(counts.trained)
        )


def cost_model(name: str, pool: Pool | None = None) -> CostModel:
    """A cost model by name: ``flops``, ``G:U``, ``measured``, ``1.3b``, ``7b``, ``13b``; ConfigError for another.

    ``measured`` needs a pool with times.
    """
    if name == "flops":
        return CostModel(name, 2.0, 0.0, 2.0, 6.0)
    if name in DECODE:
        size, step_s, row_s = DECODE[name]
        token_s = size / (MFU * PEAK_FLOPS_PER_S)
        return CostModel(name, row_s, step_s, 2 * token_s, 6 * token_s, is_seconds=True)
    if name == "measured":
        seconds = pool.meta.get("seconds", {}) if pool else {}
        if not pool or not seconds.get("generate_s") or not seconds.get("gradient_s"):
            raise ConfigError("cost = 'measured': the pool has no times; collect it with arrol lab, or choose another")
        tokens = float(pool.length_PN.sum())
        trained_s = seconds["gradient_s"] / tokens
        return CostModel(name, seconds["generate_s"] / tokens, 0.0, trained_s / 3, trained_s, is_seconds=True)
    generated, trained = _token_prices(name)
    return CostModel(name, generated, 0.0, trained / 3, trained)


def require_cost(name: str) -> None:
    """ConfigError for a name that no pool has a cost model of."""
    if name not in ("flops", "measured", *DECODE):
        _token_prices(name)


def _token_prices(name: str) -> tuple[float, float]:
    """Prices of a generated and of a trained token, from a name such as ``4:3``."""
    generated, colon, trained = name.partition(":")
    try:
        prices = float(generated), float(trained)
    except ValueError:
        prices = (-1.0, -1.0)
    if not colon or not all(np.isfinite(prices)) or min(prices) < 0 or max(prices) <= 0:
        raise ConfigError(
            f"cost = {name!r}: unknown; give flops, measured, {', '.join(DECODE)}, or generated:trained such as 4:3"
        )
    return prices
