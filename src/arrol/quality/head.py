"""The quality head: a two-layer network from probe features to one logit, trained on finished rollouts.

arXiv 2603.24840 gives a two-layer MLP trained with binary cross-entropy, detached from the backbone, in the policy's
own optimiser step. Deviations: (1) inputs are standardised by the buffer's moments, since hidden states and
log-probability sums differ by orders of magnitude; (2) an AdamW of its own; (3) records weighted by 1/survival, so that
survivors stand for all candidates.
Legend: ``C`` candidates, ``N`` records, ``F`` features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from arrol.configs.method import QualityConfig
from arrol.quality.buffer import ProbeBuffer

MAX_WEIGHT = 20.0
"""A record counts at most this many times in the head's loss (not in any gradient of the policy)."""


class QualityHead(nn.Module):
    """Standardise, Linear, SiLU, Linear; float32, on the CPU."""

    mean_F: torch.Tensor
    scale_F: torch.Tensor

    def __init__(self, num_features: int, hidden_size: int, seed: int) -> None:
        super().__init__()
        self.register_buffer("mean_F", torch.zeros(num_features))
        self.register_buffer("scale_F", torch.ones(num_features))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Linear(num_features, hidden_size)
            self.second = nn.Linear(hidden_size, 1)
        # An untrained head knows nothing: its logit is the same for all.
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, features_NF: torch.Tensor) -> torch.Tensor:
        """``[N, F]`` to logits ``[N]``."""
        standard_NF = ((features_NF - self.mean_F) / self.scale_F).clamp(-10.0, 10.0)
        return self.second(nn.functional.silu(self.first(standard_NF))).squeeze(-1)

    @torch.no_grad()
    def scores(self, features_CF: np.ndarray) -> np.ndarray:
        """float64 ``[C]``; NaN where a feature is not finite."""
        logits = self(torch.from_numpy(np.ascontiguousarray(features_CF, np.float32))).double().numpy()
        return np.where(np.isfinite(features_CF).all(axis=1), logits, np.nan)


def refit(
    head: QualityHead, optimizer: torch.optim.Optimizer, buffer: ProbeBuffer, config: QualityConfig, seed: int
) -> float:
    """A few passes over the buffer; returns the mean loss of the last one. ``seed`` orders the records."""
    finite = np.isfinite(buffer.features_NF).all(axis=1)
    features = torch.from_numpy(buffer.features_NF[finite])
    label = torch.from_numpy(buffer.label_N[finite]).float()
    weight = torch.from_numpy(np.minimum(buffer.weight_N[finite], MAX_WEIGHT)).float()
    if len(label) < 2:
        return float("nan")
    head.mean_F = features.mean(0)
    head.scale_F = features.std(0).clamp_min(1e-4)
    order = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    for _ in range(config.passes):
        losses = []
        for rows in torch.randperm(len(label), generator=order).split(config.batch_size):
            loss = nn.functional.binary_cross_entropy_with_logits(head(features[rows]), label[rows], weight[rows])
            loss = loss * len(rows) / weight[rows].sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return float(np.mean(losses))
