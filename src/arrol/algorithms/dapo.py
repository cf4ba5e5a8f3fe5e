"""DAPO (arXiv 2503.14476): baseline = group mean, clip 0.2 below and 0.28 above, denominator = all tokens.

The triple is set by ``configs.method.DapoConfig`` and computed by ``advantages`` and ``losses``; only the overlong
penalty is DAPO's own. Dynamic sampling is an allocation rule (``allocation.prompts``). Legend: ``G`` rollouts.
"""

from __future__ import annotations

import numpy as np


def overlong_penalty(
    tokens_G: np.ndarray, max_completion_tokens: int, buffer_tokens: int, penalty: float
) -> np.ndarray:
    """``[G]`` to subtract from the reward: 0 up to the buffer, then linear, ``penalty`` at the limit."""
    if buffer_tokens == 0:
        return np.zeros(len(tokens_G))
    excess_G = np.asarray(tokens_G, float) - (max_completion_tokens - buffer_tokens)
    return penalty * np.clip(excess_G / buffer_tokens, 0.0, 1.0)
