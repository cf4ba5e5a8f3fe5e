"""Beta posterior of a prompt's success rate: what is believed of it, and the advantage that follows. Pure numpy.

Prior Beta(a0, b0), discounted counts S and F of earlier visits, s right and f wrong verified now:

    a = a0 + S + s,  b = b0 + F + f,  S of the next visit = discount (S + s)          (the form of MoPPS, 2507.04632)
    mean of the rate   mu  = a / (a + b)
    spread             v_B = mu (1 - mu), or expected v_E = a b / ((a + b) (a + b + 1))
    advantage          A_i = (r_i - mu) / (sqrt(v) + eps)

AERO (arXiv 2602.14338) keeps a Bayesian posterior so that uniform groups still teach; its exact form is not known to
us, this one is our derivation:

1. Mean **and** spread are replaced: a posterior mean over an empirical spread of 0 would divide by eps.
2. The variance of the rate itself is the wrong spread: uniform groups would get |A| > 1 however sure the model is. With
   these the signal of an all-right group fades like 1/sqrt(n): with v_B it is sqrt(b / a).
3. All-wrong groups push every sampled token down, so their advantage has a limit (``max_dead_zone_advantage``).
4. The posterior depends on (s, f) only, not on why sampling stopped: with p from the prior it is calibrated even where
   sampling ends at the first success, while s/n is not.

Legend: ``G`` rollouts of a group, ``P`` prompts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from arrol.algorithms.advantages import EPSILON, GroupSignal, effective_rollouts
from arrol.configs.allocation import PosteriorConfig
from arrol.configs.method import AlgorithmBase
from arrol.quality.buffer import PromptHistory


class Belief(NamedTuple):
    """Beta(right, wrong)."""

    right: float
    wrong: float

    @property
    def mean(self) -> float:
        return self.right / (self.right + self.wrong)

    def updated(self, right: float, wrong: float) -> Belief:
        return Belief(self.right + right, self.wrong + wrong)


def prior_belief(config: PosteriorConfig, history: PromptHistory, key: str) -> Belief:
    """What is believed of a prompt before this visit."""
    return Belief(config.prior_right, config.prior_wrong).updated(*history.counts(key))


def rate_variance(belief: Belief, kind: str) -> float:
    """Variance of an outcome: ``mean``, at the mean rate; ``expected``, averaged over the posterior."""
    right, wrong = belief
    total = right + wrong
    return right * wrong / (total * total) if kind == "mean" else right * wrong / (total * (total + 1))


def posterior_signal(
    reward_G: np.ndarray,
    survival_G: np.ndarray,
    belief: Belief,
    config: AlgorithmBase,
    *,
    posterior: PosteriorConfig,
    normalize_by_std: bool,
) -> GroupSignal:
    """Advantages against what is believed after this visit; ``reward_G`` is 0/1, NaN where nothing was verified."""
    kept_G = ~np.isnan(reward_G)
    spread = float(np.sqrt(rate_variance(belief, posterior.spread)))
    scale = spread + EPSILON if normalize_by_std else 1.0
    advantage_G = np.where(kept_G, (np.where(kept_G, reward_G, 0.0) - belief.mean) / scale, 0.0)
    if kept_G.any() and not (reward_G[kept_G] > 0).any():
        advantage_G = np.maximum(advantage_G, -posterior.max_dead_zone_advantage)
    plain = config.correction == "plain"
    weight_G = np.where(kept_G, 1.0 if plain else 1.0 / survival_G, 0.0)
    return GroupSignal(advantage_G, weight_G, belief.mean, spread, effective_rollouts(weight_G, config))
