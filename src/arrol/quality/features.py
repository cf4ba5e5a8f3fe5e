"""What the quality head reads at a probe, and in which order.

A probe at ``probe_tokens = L`` looks at a rollout when its L-th completion token has been fed to the model:

* ``last_hidden``  hidden state at that token after the final norm, ``[D]`` (the method notes, section 3)
* ``mean_hidden``  running mean of such states over the completion tokens fed so far, ``[D]``            (ours)
* ``logprobs``     sum, minimum and mean of the log-probabilities of the L sampled tokens, ``[3]``         (ours)

At the end of a completion (``END``) the same is read at the last token that was fed, the one before the last sampled.

Pilots found little within-prompt signal in the hidden state alone and more in the log-probabilities, hence all three by
default.
Legend: ``C`` candidates, ``D`` hidden size, ``F`` features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

END = 0
"""Where a completion's end stands among its probes: no probe looks before the first token, so 0 is free."""
LOGPROB_STATISTICS = ("sum", "min", "mean")


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
