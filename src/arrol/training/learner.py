"""One batch of verified groups to weight updates: signals, packing, loss, optimiser. The paper's step 8.

Legend: ``G`` rollouts of a group, ``R`` rollouts of a microbatch, ``C`` completion positions, ``N`` selected tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from arrol.algorithms.advantages import GroupSignal, group_signal
from arrol.algorithms.dapo import overlong_penalty
from arrol.algorithms.losses import Algorithm, Denominator, LossInputs, policy_loss
from arrol.configs.method import DapoConfig
from arrol.configs.run import RunConfig
from arrol.training.optimization import GuardedOptimizer
from arrol.training.packing import Example, Microbatch, batch_denominator, group_examples, pack, split_groups
from arrol.training.policy import token_logprobs
from arrol.types import RolloutGroup

MINIBATCH_STREAM = 3


class Learner:
    """Owns the optimiser; the model is shared with the engine."""

    def __init__(self, model: Any, config: RunConfig, *, reference: Any = None) -> None:
        self.model, self._config, self._reference = model, config, reference
        training = config.training
        self.guard = GuardedOptimizer(list(model.parameters()), config.optimizer, training.max_bad_steps)
        self._algorithm: Algorithm = config.algorithm
        self._device = next(model.parameters()).device
        self._total_updates = training.steps * training.epochs * training.minibatches

    def update(self, groups: Sequence[RolloutGroup], step: int) -> dict[str, float]:
        """All epochs and minibatches of one 1-based training step; returns its metrics."""
        self.model.train()
        signals = [self._signal(group) for group in groups]
        sums: Counter[str] = Counter()
        norms: list[float] = []
        training = self._config.training
        for epoch in range(training.epochs):
            parts = split_groups(len(groups), training.minibatches, [self._config.seed, MINIBATCH_STREAM, step, epoch])
            for number, part in enumerate(parts):
                done = ((step - 1) * training.epochs + epoch) * training.minibatches + number
                norms.append(self._minibatch([groups[i] for i in part], [signals[i] for i in part], sums, done))
        return self._metrics(sums, norms)

    def _signal(self, group: RolloutGroup) -> GroupSignal:
        reward_G, algorithm = group.rewards_G, self._algorithm
        if isinstance(algorithm, DapoConfig) and algorithm.overlong_buffer_tokens:
            limit = self._config.sampling.max_completion_tokens
            tokens_G = np.array([r.completion.num_tokens for r in group.rollouts])
            reward_G = reward_G - overlong_penalty(
                tokens_G, limit, algorithm.overlong_buffer_tokens, algorithm.overlong_penalty
            )
        return group_signal(
            reward_G, group.survival_G, group.quality_G, algorithm, normalize_by_std=algorithm.normalize_by_std
        )

    def _minibatch(
        self, groups: list[RolloutGroup], signals: list[GroupSignal], sums: Counter[str], done: int
    ) -> float:
        """One optimiser step; returns the gradient's norm."""
        keep_zero = self._algorithm.kl_coef > 0
        examples: list[Example] = []
        for group, signal in zip(groups, signals, strict=True):
            examples += group_examples(group, signal.advantage_G, signal.weight_G, keep_zero=keep_zero)
        if not examples:
            return 0.0
        limit = self._config.sampling.max_completion_tokens
        denominator = batch_denominator(groups, [s.weight_G for s in signals], self._algorithm, limit)
        microbatches = pack(examples, self._config.training.microbatch_tokens, self._device)
        learner = [self._frozen_logprobs(self.model, mb, sums) for mb in microbatches] if self._corrects else []
        reference = [self._frozen_logprobs(self._reference, mb, sums) for mb in microbatches] if keep_zero else []
        for number, microbatch in enumerate(microbatches):
            self._backward(
                microbatch,
                denominator,
                sums,
                learner[number] if learner else None,
                reference[number] if reference else None,
            )
        return self.guard.step(done, self._total_updates)

    @property
    def _corrects(self) -> bool:
        return self._algorithm.importance_cap > 0

    def _backward(
        self,
        microbatch: Microbatch,
        denominator: Denominator,
        sums: Counter[str],
        learner_RC: torch.Tensor | None,
        reference_RC: torch.Tensor | None,
    ) -> None:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._config.training.bf16):
            logprob_N, entropy_N = token_logprobs(
                self.model,
                microbatch.ids_RT,
                microbatch.selected_RT,
                temperature=self._config.sampling.temperature,
                with_entropy=True,
            )
        inputs = LossInputs(
            microbatch.unflatten(logprob_N),
            microbatch.sampler_logprobs_RC,
            microbatch.loss_mask_RC,
            microbatch.advantage_R,
            microbatch.weight_R,
            learner_RC,
            reference_RC,
        )
        loss, tokens = policy_loss(inputs, self._algorithm, denominator)
        loss.backward()
        assert entropy_N is not None
        gap_N = (logprob_N.detach() - microbatch.sampler_logprobs_RC[microbatch.loss_mask_RC.bool()]).abs()
        sums.update({name: float(value) for name, value in tokens.items()})
        sums.update({"loss": float(loss.detach()), "entropy": float(entropy_N.sum()), "mismatch": float(gap_N.sum())})

    @torch.no_grad()
    def _frozen_logprobs(self, model: Any, microbatch: Microbatch, sums: Counter[str]) -> torch.Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._config.training.bf16):
            logprob_N, _ = token_logprobs(
                model, microbatch.ids_RT, microbatch.selected_RT, temperature=self._config.sampling.temperature
            )
        sums["scored"] += microbatch.num_completion_tokens
        return microbatch.unflatten(logprob_N)

    def _metrics(self, sums: Counter[str], norms: list[float]) -> dict[str, float]:
        tokens = max(sums["tokens"], 1.0)
        metrics = {
            "loss/policy": sums["loss"] / max(len(norms), 1),
            "loss/grad_norm": float(np.mean(norms)) if norms else 0.0,
            "loss/clip_frac": sums["clip"] / tokens,
            "loss/ratio/mean": sums["ratio"] / tokens,
            "loss/entropy": sums["entropy"] / tokens,
            "loss/sampler_mismatch": sums["mismatch"] / tokens,
            "train/learning_rate": float(self.guard.optimizer.param_groups[0]["lr"]),
            "train/skipped_updates": float(self.guard.num_skipped),
            "tokens/trained": float(sums["tokens"]),
            "tokens/scored": float(sums["scored"]),
        }
        if self._corrects:
            metrics["loss/importance/mean"] = sums["correction"] / tokens
        if self._algorithm.kl_coef > 0:
            metrics["loss/kl"] = sums["kl"] / tokens
        return metrics
