"""What a table of outcomes says. Pure numpy. Legend: ``P`` prompts, ``G`` samples per prompt."""

from __future__ import annotations

import numpy as np

from arrol.stats import bootstrap_interval, wilson_interval


def accuracy_with_interval(reward_PG: np.ndarray) -> tuple[float, float, float]:
    """Mean reward and its 95% interval: Wilson for one 0/1 sample per prompt, else a bootstrap over prompts."""
    assert reward_PG.ndim == 2, reward_PG.shape
    if reward_PG.shape[1] == 1 and np.isin(reward_PG, (0.0, 1.0)).all():
        low, high = wilson_interval(float(reward_PG.sum()), reward_PG.shape[0])
    else:
        low, high = bootstrap_interval(reward_PG.mean(1), seed=0)
    return float(reward_PG.mean()), low, high


def pass_at_k(reward_PG: np.ndarray, k: int) -> float:
    """Chance that one of k samples is right, unbiased from G >= k samples: 1 - C(G - c, k) / C(G, k), mean over
    prompts."""
    size = reward_PG.shape[1]
    assert 1 <= k <= size, (k, size)
    wrong_P = size - (reward_PG > 0).sum(1)
    return float(np.mean([1.0 - _miss(int(wrong), size, k) for wrong in wrong_P]))


def _miss(wrong: int, size: int, k: int) -> float:
    """Chance that k of size samples, drawn without repetition, are all wrong."""
    if wrong < k:
        return 0.0
    return float(np.prod((wrong - np.arange(k)) / (size - np.arange(k))))


def dead_group_frac(reward_PG: np.ndarray, group_size: int) -> float:
    """Chance that a group of this size is all right or all wrong, unbiased from the samples, mean over prompts."""
    size = reward_PG.shape[1]
    assert 1 <= group_size <= size, (group_size, size)
    right_P = (reward_PG > 0).sum(1)
    return float(np.mean([_miss(size - int(c), size, group_size) + _miss(int(c), size, group_size) for c in right_P]))
