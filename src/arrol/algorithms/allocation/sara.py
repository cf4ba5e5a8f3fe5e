"""SARA, arXiv 2607.26253: a sequential test between waves commits to a prompt or abandons it. Pure functions of counts.

After ``explore_size`` rollouts, and after every further ``round_size``, two hypotheses about the success rate p are
compared: informative, ``lowest`` <= p <= 1 - ``lowest``, against the rest. With p uniform before the first rollout and
c right of n verified, p is Beta(1 + c, 1 + n - c), and

    ratio = odds(informative | c, n) / odds(informative)        the likelihood ratio of the two

By Wald's bounds a prompt is committed to at (1 - error) / error or more and gets the rest of ``group_size`` at once, it
is abandoned at error / (1 - error) or less and trains on what it has, and the test goes on in between.

We know of the paper: 4 rollouts, a Beta posterior, a sequential probability ratio test, commit or abandon. Ours: (1)
the two hypotheses, (2) rounds after the first, (3) an abandoned prompt trains. Group sizes follow outcomes, so the
gradient is biased; ``arrol lab`` measures by how much. Legend: ``P`` prompts, ``X`` points of a grid of rates.
"""

from __future__ import annotations

import numpy as np

from arrol.algorithms.allocation.rule import AllocationRule, Tally
from arrol.configs.allocation import SaraAllocation

GRID = (np.arange(1000) + 0.5) / 1000
"""Rates over which the posterior is summed."""


def informative_odds(right_P: np.ndarray, verified_P: np.ndarray, lowest: float) -> np.ndarray:
    """float64 ``[P]``: posterior odds that the rate lies in [lowest, 1 - lowest], from a uniform prior."""
    wrong_P = verified_P - right_P
    log_PX = right_P[:, None] * np.log(GRID) + wrong_P[:, None] * np.log1p(-GRID)
    chance_PX = np.exp(log_PX - log_PX.max(1, keepdims=True))
    inside_X = (lowest <= GRID) & (1 - lowest >= GRID)
    return chance_PX[:, inside_X].sum(1) / chance_PX[:, ~inside_X].sum(1)


def verdicts(right_P: np.ndarray, verified_P: np.ndarray, config: SaraAllocation) -> np.ndarray:
    """int ``[P]``: 1 to commit, -1 to abandon, 0 undecided."""
    prior = informative_odds(np.zeros(1, int), np.zeros(1, int), config.lowest)
    ratio_P = informative_odds(right_P, verified_P, config.lowest) / prior
    bound = (1 - config.error) / config.error
    return (ratio_P >= bound).astype(int) - (ratio_P <= 1 / bound)


class Sara(AllocationRule[SaraAllocation]):
    """The rule behind its interface."""

    @property
    def first_size(self) -> int:
        return self.config.explore_size

    def next_waves(self, tally: Tally) -> np.ndarray:
        room_P = self.shape.group_size - tally.asked_P
        verdict_P = verdicts(tally.right_P, tally.verified_P, self.config)
        prompts = np.flatnonzero(tally.is_idle_P & (room_P > 0) & (verdict_P >= 0))
        wave_P = np.where(verdict_P > 0, room_P, np.minimum(self.config.round_size, room_P))
        return np.stack([prompts, wave_P[prompts]])

    def strata(self, right_P: np.ndarray, verified_P: np.ndarray) -> dict[str, int]:
        verdict_P = verdicts(right_P, verified_P, self.config)
        named = {"committed": 1, "abandoned": -1, "undecided": 0}
        return {name: int((verdict_P == verdict).sum()) for name, verdict in named.items()}
