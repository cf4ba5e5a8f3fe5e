"""What the quality head reads at a probe, and in which order.

A probe at ``probe_tokens = L`` looks at a rollout when its L-th completion token has been fed to the model:

* ``last_hidden``  hidden state at that token after the final norm, ``[D]`` (the method notes, section 3)
* ``mean_hidden``  running mean of such states over the completion tokens fed so far, ``[D]``            (ours)
* ``logprobs``     sum, minimum and mean of the log-probabilities of the L sampled tokens, ``[3]``         (ours)

At the end of a completion (``END``) the same is read at the last token that was fed, the one before the last sampled.

Pilots found little within-prompt signal in the hidden state alone and more in the log-probabilities, so all three are
the default.
Legend: ``C`` candidates, ``D`` hidden size, ``F`` features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

END = 0
"""Where a completion's end stands among its probes: no probe looks before the first token, so 0 is free."""
LOGPROB_STATISTICS = ("sum", "min", "mean")


def logprob_statistics(logprobs_CT: np.ndarray, length_C: np.ndarray | None = None) -> np.ndarray:
    """float32 ``[C, 3]``: sum, minimum and mean of the first ``length_C`` log-probabilities of each row (default: all).

    NaN for a row of length 0 and for a row with a NaN among them. Sums in float64, so padding changes no result.

    >>> logprob_statistics(np.array([[-1.0, -3.0, 0.0]]), np.array([2])).tolist()
    [[-4.0, -3.0, -2.0]]
    """
    rows, width = logprobs_CT.shape
    length_C1 = np.full((rows, 1), width) if length_C is None else np.asarray(length_C)[:, None]
    is_read_CT = np.arange(width) < length_C1
    sum_C1 = np.where(is_read_CT, logprobs_CT, 0.0).sum(1, dtype=np.float64, keepdims=True)
    least_C1 = np.where(is_read_CT, logprobs_CT, np.inf).min(1, initial=np.inf, keepdims=True)
    statistics_C3 = np.concatenate([sum_C1, least_C1, sum_C1 / np.maximum(length_C1, 1)], axis=1)
    return np.where(length_C1 > 0, statistics_C3, np.nan).astype(np.float32)


@dataclass(frozen=True)
class FeatureLayout:
    """Order and size of the features.

    >>> FeatureLayout(("last_hidden", "logprobs"), 64).num_features
    67
    """

    names: tuple[str, ...]
    hidden_size: int

    @property
    def num_features(self) -> int:
        return sum(len(LOGPROB_STATISTICS) if name == "logprobs" else self.hidden_size for name in self.names)

    def assemble(self, last_CD: np.ndarray, mean_CD: np.ndarray, logprobs_C3: np.ndarray) -> np.ndarray:
        """float32 ``[C, F]`` in the layout's order."""
        parts = {"last_hidden": last_CD, "mean_hidden": mean_CD, "logprobs": logprobs_C3}
        return np.concatenate([parts[name] for name in self.names], axis=1).astype(np.float32)
