"""What other survivals would have added in noise and cost, over rollouts whose outcome is known. Numpy only.

Each known rollout counts 1/(survival that it had). With a its squared advantage, s a stand-in for the squared size of
its gradient, and p the survival in question, a group of G adds under correction ``ipw`` the noise

    V(p) = sum s / (p t) (a + b),      b = sum a (1/p - 1) / (G (G - 1))

b is what stopped siblings add to a baseline, t the probability of training in the lottery before the update
(``algorithms/thinning.py``). It costs tokens written, tokens trained (a survivor below the mean trains where a sibling
above it survived) and its part of the decode steps: those in which a rollout of the step still runs.

Legend: ``N`` known rollouts, ``M`` groups.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

TINY = 1e-12


class Prices(NamedTuple):
    """Costs."""

    generated: float
    """Price of a token that is written."""
    trained: float
    """Price of a token that is trained."""
    step: float
    """Price of a decode step with any number of rollouts."""


class Past(NamedTuple):
    """Rollouts whose outcome is known; arrays ``[N]``."""

    step_N: np.ndarray
    group_N: np.ndarray
    """int: groups of all steps, numbered from 0 without gaps."""
    weight_N: np.ndarray
    """How many rollouts it stands for."""
    advantage_N: np.ndarray
    size_N: np.ndarray
    """Squared size of the gradient of its log-probability, up to a factor."""
    tokens_N: np.ndarray


class Outlook(NamedTuple):
    """Noise and costs of each group, float64 ``[M]``."""

    noise_M: np.ndarray
    cost_M: np.ndarray


def outlook(past: Past, survival_N: np.ndarray, start: float, prices: Prices, thinning: float) -> Outlook:
    """Noise and expected cost, had rollouts survived ``start`` tokens independently with these probabilities.

    ``survival_N`` is 1 for rollouts that ended before. ``thinning``: share of the lottery before the update; 0: none.
    """
    squared_N = past.advantage_N**2
    count_M = np.maximum(np.bincount(past.group_N, past.weight_N), 2.0)
    lost_M = np.bincount(past.group_N, past.weight_N * squared_N * (1 / survival_N - 1))
    squared_N = squared_N + (lost_M / (count_M * (count_M - 1)))[past.group_N]
    trains_N = np.ones(len(squared_N))
    if thinning:
        alive_N = past.weight_N * survival_N * (squared_N > 0)
        rms = np.sqrt((past.weight_N * squared_N / survival_N).sum() / max(alive_N.sum(), TINY))
        trains_N = np.minimum(1.0, np.sqrt(squared_N) / (survival_N * thinning * max(rms, TINY)))
    noise_N = past.size_N * squared_N / (survival_N * np.maximum(trains_N, TINY))
    trained_N = past.tokens_N * survival_N * trains_N * _has_advantage(past, survival_N)
    cost_M = _generation(past, survival_N, start, prices)
    cost_M += prices.trained * np.bincount(past.group_N, past.weight_N * trained_N)
    return Outlook(np.bincount(past.group_N, past.weight_N * noise_N), cost_M)


def costs(past: Past, start: float, prices: Prices) -> tuple[np.ndarray, np.ndarray]:
    """Cost of each rollout up to ``start`` tokens and after them, float64 ``[N]`` both.

    The rollouts that run in a decode step share it equally.
    """
    trained_N = prices.trained * past.tokens_N * (past.advantage_N != 0)
    before_N, after_N = prices.generated * np.minimum(past.tokens_N, start), prices.generated * past.tokens_N
    if prices.step:
        before_N = before_N + prices.step * step_shares(past, start)
        after_N = after_N + prices.step * step_shares(past, np.inf)
    return before_N, after_N - before_N + trained_N


def decode_steps(tokens_N: np.ndarray, survival_N: np.ndarray, weight_N: np.ndarray, start: float) -> float:
    """Expected decode steps of one step, whose rollouts survive ``start`` tokens independently."""
    order = np.argsort(-tokens_N, kind="stable")
    with np.errstate(divide="ignore"):
        runs_N = 1 - np.exp(np.cumsum(weight_N[order] * np.log1p(-survival_N[order])))
    beyond_N = np.maximum(tokens_N[order], start)
    drops_N = beyond_N - np.append(beyond_N[1:], start)
    return float(min(tokens_N.max(), start) + (runs_N * drops_N).sum())


def step_shares(past: Past, until: float) -> np.ndarray:
    """float64 ``[N]``: each rollout's share of the decode steps of its step, up to ``until`` of them."""
    share_N = np.zeros(len(past.tokens_N))
    for step in np.unique(past.step_N):
        rows = np.flatnonzero(past.step_N == step)
        rows = rows[np.argsort(past.tokens_N[rows], kind="stable")]
        running_N = np.cumsum(past.weight_N[rows][::-1])[::-1]
        share_N[rows] = np.cumsum(np.diff(np.minimum(past.tokens_N[rows], until), prepend=0.0) / running_N)
    return share_N


def _generation(past: Past, survival_N: np.ndarray, start: float, prices: Prices) -> np.ndarray:
    written_N = past.tokens_N - (1 - survival_N) * np.maximum(past.tokens_N - start, 0)
    cost_M = prices.generated * np.bincount(past.group_N, past.weight_N * written_N)
    if prices.step:
        step_M = np.zeros(len(cost_M))
        step_M[past.group_N] = past.step_N
        for step in np.unique(step_M):
            in_N, in_M = past.step_N == step, step_M == step
            steps = decode_steps(past.tokens_N[in_N], survival_N[in_N], past.weight_N[in_N], start)
            cost_M[in_M] += prices.step * steps / in_M.sum()
    return cost_M


def _has_advantage(past: Past, survival_N: np.ndarray) -> np.ndarray:
    """float64 ``[N]``: probability that a survivor's advantage is not 0.

    One below the mean has none where every sibling above the mean was stopped.
    """
    with np.errstate(divide="ignore"):
        gone_N = np.where(past.advantage_N > 0, past.weight_N * np.log1p(-survival_N), 0.0)
    gone_M = np.exp(np.bincount(past.group_N, gone_N))
    return np.where(past.advantage_N < 0, 1 - gone_M[past.group_N], past.advantage_N > 0)
