"""AdamW with a schedule, and the guard against steps that are not finite. Shared by the trainer and the warm start."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from arrol.configs.run import OptimizerConfig
from arrol.errors import NonFiniteError


def build_optimizer(parameters: Sequence[torch.nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    """Decay acts on matrices only, as usual."""
    matrices = [p for p in parameters if p.ndim >= 2]
    others = [p for p in parameters if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Rate of 0-based ``step`` out of ``steps``: linear rise, then constant, linear or cosine to 0."""
    if step < config.lr_warmup_steps:
        return config.learning_rate * (step + 1) / config.lr_warmup_steps
    done = (step - config.lr_warmup_steps) / max(1, steps - config.lr_warmup_steps)
    factor = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[config.schedule]
    return config.learning_rate * factor


class GuardedOptimizer:
    """Clips the gradient and steps; skips and counts steps whose gradient is not finite, and gives up after too many in
    a row.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], config: OptimizerConfig, max_bad_steps: int) -> None:
        self.parameters, self._config, self._max_bad = list(parameters), config, max_bad_steps
        self.optimizer = build_optimizer(self.parameters, config)
        self.bad_in_a_row = 0
        self.num_skipped = 0

    def step(self, step: int, steps: int, *, has_signal: bool = True) -> float:
        """One update at the rate of 0-based ``step``; clears the gradients and returns their norm before clipping.

        ``has_signal=False``: the loss dropped every token, which counts as a gradient that is not finite.
        """
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self._config.max_grad_norm))
        norm = norm if has_signal else math.nan
        if math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self._config, step, steps)
            self.optimizer.step()
            self.bad_in_a_row = 0
        else:
            self.bad_in_a_row += 1
            self.num_skipped += 1
        self.optimizer.zero_grad(set_to_none=True)
        if self.bad_in_a_row >= self._max_bad:
            raise NonFiniteError(
                f"training.max_bad_steps = {self._max_bad}: that many updates in a row had "
                "a gradient that is not finite; "
                "lower optimizer.learning_rate or switch training.bf16 off"
            )
        return norm
