"""Closed form: error and cost of whole groups of any size, from moments of a pool. Pure numpy.

The pool is the population: a group draws its rollouts from it independently, so a group of n estimates the prompt's
gradient g = E[(r - p) S] without bias by the sample covariance of reward r and gradient of log-probability S. With
centred moments m22 = E[(r-p)^2 |S-ES|^2], m20 = Var r, m02 = E|S-ES|^2 its error is exactly

    V(n) = (m22 - (n-2)/(n-1) |g|^2 + m20 m02 / (n-1)) / n

A step of B prompts has the error (sigma_b^2 + mean V) / B, sigma_b^2 the spread of g between prompts, and costs B times
the cost of a prompt. Its **merit** is 1 / ((sigma_b^2 + mean V) x mean cost): it knows no number of prompts and no
learning rate. With V about sigma_w^2 / (n-1) and costs proportional to n the best size is 1 + sigma_w / sigma_b.

Legend: ``P`` prompts, ``N`` rollouts, ``D`` numbers of a sketch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from arrol.lab.costs import Counts
from arrol.lab.pool import Pool

TINY = 1e-300
"""In place of 0 where something is divided by it."""


@dataclass(frozen=True)
class Moments:
    """Moments of each prompt of a pool with gradients."""

    m22_P: np.ndarray
    m20_P: np.ndarray
    m02_P: np.ndarray
    gradient_PD: np.ndarray
    """E[(r - p) S]."""
    count_P: np.ndarray
    """Rollouts behind the moments."""

    @classmethod
    def of(cls, pool: Pool) -> Moments:
        """Moments of the known rollouts of each prompt."""
        rows = []
        for reward_N, sketch_ND, known_N in zip(pool.reward_PN, pool.sketch_PND, pool.is_known_PN, strict=True):
            reward_N, sketch_ND = reward_N[known_N].astype(float), sketch_ND[known_N].astype(float)
            reward_N, sketch_ND = reward_N - reward_N.mean(), sketch_ND - sketch_ND.mean(0)
            size_N = (sketch_ND**2).sum(1)
            gradient_D = (reward_N[:, None] * sketch_ND).mean(0)
            rows.append(((reward_N**2 * size_N).mean(), (reward_N**2).mean(), size_N.mean(), gradient_D, len(reward_N)))
        m22, m20, m02, gradients, counts = zip(*rows, strict=True)
        return cls(np.array(m22), np.array(m20), np.array(m02), np.array(gradients), np.array(counts))

    def part(self, prompts: np.ndarray) -> Moments:
        """The moments of these prompts, with repetitions."""
        return Moments(
            *(getattr(self, name)[prompts] for name in ("m22_P", "m20_P", "m02_P", "gradient_PD", "count_P"))
        )

    @cached_property
    def squared_P(self) -> np.ndarray:
        """|g|^2."""
        return (self.gradient_PD**2).sum(1)

    def error_P(self, size_P: np.ndarray | float) -> np.ndarray:
        """V(n); |g|^2 where n < 2, since such a group says nothing."""
        n = np.maximum(np.broadcast_to(np.asarray(size_P, float), self.m22_P.shape), 1.0)
        rest = np.maximum(n - 1, 1e-9)
        value = (self.m22_P - (n - 2) / rest * self.squared_P + self.m20_P * self.m02_P / rest) / n
        return np.where(n < 2, self.squared_P, value)

    @property
    def between(self) -> float:
        """sigma_b^2: spread of the prompts' gradients, the pool's own noise taken off; at least 0."""
        centred = self.gradient_PD - self.gradient_PD.mean(0)
        spread = float((centred**2).sum() / max(len(centred) - 1, 1))
        return max(spread - float(self.error_P(self.count_P.astype(float)).mean()), 0.0)

    @property
    def within(self) -> float:
        """sigma_w^2: n V(n) for large groups."""
        return float(np.mean(self.m22_P - self.squared_P))

    @property
    def ratio(self) -> float:
        """sigma_w / sigma_b; infinite where the pool shows no spread between prompts."""
        return float(np.sqrt(self.within / self.between)) if self.between > 0 else float("inf")


def merit(between: float | np.ndarray, error: float | np.ndarray, cost: float | np.ndarray) -> np.ndarray:
    """1 / ((sigma_b^2 + V) C)."""
    return 1.0 / np.maximum((between + np.asarray(error)) * np.asarray(cost), TINY)


def expected_counts(pool: Pool, size: int, prompts_per_step: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Tokens generated and trained of each prompt in a group of ``size``, ``[P]`` both, and decode steps of a step.

    A group whose rewards are equal trains nothing. A step draws its prompts from the pool, and all its rollouts start
    together: its decode steps are the mean of its longest length.
    """
    generated_P, trained_P = np.zeros(pool.num_prompts), np.zeros(pool.num_prompts)
    for p in range(pool.num_prompts):
        known_N = pool.is_known_PN[p]
        length_N, reward_N = pool.length_PN[p, known_N].astype(float), pool.reward_PN[p, known_N]
        generated_P[p] = size * length_N.mean()
        _, inverse_N, count_V = np.unique(reward_N, return_inverse=True, return_counts=True)
        alone_N = (count_V / len(reward_N))[inverse_N] ** (size - 1)  # chance that all its siblings have its reward
        trained_P[p] = size * (length_N * (1 - alone_N)).mean()
    return generated_P, trained_P, float(longest_mean(pool, np.full(pool.num_prompts, size), prompts_per_step))


def longest_mean(
    pool: Pool, size_P: np.ndarray, prompts_per_step: float, stop: tuple[int, float] | None = None
) -> float:
    """Mean length of a step's longest rollout, for a step of prompts drawn from the pool independently.

    ``stop``: a length, and the share of the rollouts longer than it that runs on; the others end there.
    """
    grid = np.unique(np.r_[pool.length_PN[pool.is_known_PN], [] if stop is None else stop[0]]).astype(float)
    below = np.zeros(len(grid))  # chance that all rollouts of one drawn prompt are at most so long
    for p in range(pool.num_prompts):
        length_N = np.sort(pool.length_PN[p, pool.is_known_PN[p]])
        share = np.searchsorted(length_N, grid, side="right") / len(length_N)
        if stop:
            share = np.where(grid >= stop[0], 1 - stop[1] * (1 - share), share)
        below += share ** size_P[p]
    step = (below / pool.num_prompts) ** prompts_per_step
    return float(grid[-1] - (np.diff(grid) * step[:-1]).sum())


def group_counts(pool: Pool, size: int, rows: int) -> Counts:
    """Mean counts of a prompt in whole groups of ``size``, in steps of ``rows`` rollouts: rows / size prompts."""
    generated_P, trained_P, longest = expected_counts(pool, size, rows / size)
    return Counts(generated_P.mean(), longest * size / rows, 0.0, trained_P.mean())
