"""Count sketch of a rollout's gradient: ``D`` numbers with the inner products of the whole gradients, on average.

Every parameter has a sign and a bucket, fixed by a seed; a bucket holds the signed sum of its parameters' gradient.
For two gradients x and y the sketches' inner product has mean <x, y> and a relative error of about sqrt(2 / D).

Legend: ``D`` numbers of a sketch.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from arrol.errors import ConfigError
from arrol.training.policy import token_logprobs


class GradientSketch:
    """Sketches gradients of the log-probability of completions under a model."""

    def __init__(
        self, model: Any, size: int, *, seed: int = 0, only: Sequence[str] = (), temperature: float = 1.0
    ) -> None:
        """``only``: patterns of parameter names (``*layers.29.*``); empty takes all. The others do not count."""
        named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        chosen = [w for name, w in named.items() if not only or any(fnmatch.fnmatch(name, word) for word in only)]
        if not chosen:
            raise ConfigError(
                f"parameters = {list(only)}: no parameter of the model matches; the first is {next(iter(named))!r}"
            )
        self._model, self._weights, self._temperature = model, chosen, temperature
        self._size = size
        self.num_parameters = sum(weight.numel() for weight in chosen)
        generator = torch.Generator().manual_seed(seed)
        self._hash = [
            torch.randint(0, 2 * size, (w.numel(),), generator=generator, dtype=torch.int32).to(w.device)
            for w in chosen
        ]
        """Per parameter: its bucket, or ``size`` plus its bucket where its sign is negative."""

    def __call__(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> tuple[np.ndarray, float]:
        """float32 ``[D]``: sketch of the gradient of log p(completion | prompt); and its squared norm, exact."""
        device = self._weights[0].device
        ids_1T = torch.tensor([[*prompt_ids, *completion_ids]], device=device)
        selected_1T = torch.zeros_like(ids_1T, dtype=torch.bool)
        selected_1T[0, len(prompt_ids) :] = True
        with torch.enable_grad():
            logprob_N, _ = token_logprobs(self._model, ids_1T, selected_1T, temperature=self._temperature)
            gradients = torch.autograd.grad(logprob_N.sum(), self._weights, allow_unused=True)
        sketch_2D = torch.zeros(2 * self._size, device=device)
        norm = 0.0
        for gradient, hashed in zip(gradients, self._hash, strict=True):
            if gradient is None:
                continue
            flat = gradient.reshape(-1).float()
            norm += float(flat @ flat)
            sketch_2D.index_add_(0, hashed, flat)
        return (sketch_2D[: self._size] - sketch_2D[self._size :]).cpu().numpy(), norm
