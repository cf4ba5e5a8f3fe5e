"""One batch of verified groups to weight updates: signals, packing, loss, optimiser. The paper's step 8.

Legend: ``G`` rollouts of a group, ``R`` rollouts of a microbatch, ``C`` completion positions, ``N`` selected tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from arrol.algorithms.allocation.selection import whole
from arrol.algorithms.lesson import Lesson
from arrol.algorithms.losses import Denominator, LossInputs, policy_loss
from arrol.algorithms.thinning import thinned, thinning_share
from arrol.configs.method import AlgorithmConfig
from arrol.configs.run import RunConfig
from arrol.engines.embedded.decoder import flat_decoder
from arrol.training.lora import adapters_off, trained_weights
from arrol.training.optimization import GuardedOptimizer
from arrol.training.packing import Example, Microbatch, batch_denominator, group_examples, pack, split_groups
from arrol.training.policy import head_logprobs, token_logprobs
from arrol.training.recompute import recomputed_layers, require_layers
from arrol.training.signals import step_signals
from arrol.types import RolloutGroup, RolloutId

MINIBATCH_STREAM = 3


@dataclass(frozen=True)
class _Frozen:
    """Log-probabilities ``[T]`` per rollout that no update of this step changes; empty where they are not used."""

    learner: dict[RolloutId, torch.Tensor]
    """The learner's own from before the update."""
    reference: dict[RolloutId, torch.Tensor]


class Learner:
    """Owns the optimiser; the model is shared with the engine. A reference that is the model itself is the model with
    its adapters off."""

    def __init__(self, model: Any, config: RunConfig, *, reference: Any = None) -> None:
        self.model, self._config, self._reference = model, config, reference
        training = config.training
        self.guard = GuardedOptimizer(trained_weights(model), config.optimizer, training.max_bad_steps)
        self._algorithm: AlgorithmConfig = config.algorithm
        self._device = next(model.parameters()).device
        bf16 = config.training.bf16
        self._decoders = {id(m): None if m is None or bf16 else flat_decoder(m) for m in (model, reference)}
        """Per model, where its siblings can share their prompt; autocast is left to the model's own forward pass."""
        self._recompute = training.gradient_checkpointing
        if self._recompute:
            require_layers(model, "training.gradient_checkpointing")
        self._total_updates = training.steps * training.epochs * training.minibatches

    def update(
        self,
        groups: Sequence[RolloutGroup],
        step: int,
        lessons: Sequence[Lesson] | None = None,
        *,
        thinning: float | None = None,
    ) -> dict[str, float]:
        """All epochs and minibatches of one 1-based training step; returns its metrics. Without lessons all train.

        ``thinning``: share of the lottery before the update, None: the config's.
        """
        self.model.eval()  # no dropout: it would make the ratio of an unchanged policy differ from 1
        if lessons is None:
            lessons = [Lesson(whole(len(group.rollouts))) for group in groups]
        signals = step_signals(groups, lessons, self._config)
        examples = [
            group_examples(group, signal.advantage_G, signal.weight_G, keep_zero=self._uses_reference)
            for group, signal in zip(groups, signals, strict=True)
        ]
        examples = self._thinned(examples, thinning)
        sums: Counter[str] = Counter()
        norms: list[float] = []
        training = self._config.training
        frozen = self._frozen_logprobs([example for part in examples for example in part], sums)
        for epoch in range(training.epochs):
            parts = split_groups(len(groups), training.minibatches, [self._config.seed, MINIBATCH_STREAM, step, epoch])
            for number, part in enumerate(parts):
                done = ((step - 1) * training.epochs + epoch) * training.minibatches + number
                limit = self._config.sampling.max_completion_tokens
                denominator = batch_denominator([groups[i] for i in part], [signals[i] for i in part], limit)
                norms.append(self._minibatch([e for i in part for e in examples[i]], denominator, frozen, sums, done))
        return self._metrics(sums, norms)

    def _thinned(self, examples: list[list[Example]], share: float | None) -> list[list[Example]]:
        """Per group, the examples that cost an update; the weights of the small ones among them are raised.

        Without pruned rollouts and a share the step is that of the plain algorithm; a KL term would need every row.
        """
        rows = [example for part in examples for example in part]
        if share is None:
            is_pruned = any(example.rollout.survival < 1 for example in rows)
            share = thinning_share(self._algorithm, is_pruned=is_pruned)
        contribution_R = np.array([example.advantage * example.weight for example in rows])
        factors = iter(thinned(contribution_R, [e.rollout.rollout_id for e in rows], share, seed=self._config.seed))
        scaled = [[replace(e, weight=e.weight * float(next(factors))) for e in part] for part in examples]
        return [[example for example in part if example.weight] for part in scaled]

    @property
    def _corrects(self) -> bool:
        return self._algorithm.importance_cap > 0

    @property
    def _uses_reference(self) -> bool:
        return self._algorithm.kl_coef > 0

    def _minibatch(
        self, examples: list[Example], denominator: Denominator, frozen: _Frozen, sums: Counter[str], done: int
    ) -> float:
        """One optimiser step; returns the gradient's norm."""
        if not examples:
            return 0.0
        finite = sums["tokens"] - sums["nonfinite"]
        for microbatch in pack(examples, self._config.training.microbatch_tokens, self._device):
            self._backward(microbatch, denominator, frozen, sums)
        has_signal = sums["tokens"] - sums["nonfinite"] > finite
        return self.guard.step(done, self._total_updates, has_signal=has_signal)

    def _backward(self, microbatch: Microbatch, denominator: Denominator, frozen: _Frozen, sums: Counter[str]) -> None:
        logprob_N, entropy_N = self._token_logprobs(self.model, microbatch, with_entropy=True)
        policy_RC = microbatch.unflatten(logprob_N)
        learner_RC = None
        if self._corrects:  # a single optimiser step meets the policy as it was before it
            learner_RC = _rows(frozen.learner, microbatch) if frozen.learner else policy_RC.detach()
        inputs = LossInputs(
            policy_RC,
            microbatch.sampler_logprobs_RC,
            microbatch.loss_mask_RC,
            microbatch.advantage_R,
            microbatch.weight_R,
            learner_RC,
            _rows(frozen.reference, microbatch) if self._uses_reference else None,
        )
        loss, tokens = policy_loss(inputs, self._algorithm, denominator)
        loss.backward()
        assert entropy_N is not None
        gap_N = (logprob_N.detach() - microbatch.sampler_logprobs_RC[microbatch.loss_mask_RC.bool()]).abs()
        sums.update({name: float(value) for name, value in tokens.items()})
        mismatch, entropy = float(gap_N[gap_N.isfinite()].sum()), float(entropy_N.nansum())
        sums.update({"loss": float(loss.detach()), "entropy": entropy, "mismatch": mismatch})

    def _frozen_logprobs(self, examples: list[Example], sums: Counter[str]) -> _Frozen:
        """Log-probabilities that all epochs and minibatches share, computed before the first of them moves the
        policy.
        """
        training = self._config.training
        several = training.epochs * training.minibatches > 1
        return _Frozen(
            learner=self._score(self.model, examples, sums) if self._corrects and several else {},
            reference=self._score_reference(examples, sums) if self._uses_reference else {},
        )

    def _score_reference(self, examples: list[Example], sums: Counter[str]) -> dict[RolloutId, torch.Tensor]:
        if self._reference is not self.model:
            return self._score(self._reference, examples, sums)
        with adapters_off(self.model):
            return self._score(self.model, examples, sums)

    @torch.no_grad()
    def _score(self, model: Any, examples: list[Example], sums: Counter[str]) -> dict[RolloutId, torch.Tensor]:
        scored: dict[RolloutId, torch.Tensor] = {}
        for microbatch in pack(examples, self._config.training.microbatch_tokens, self._device):
            logprob_N, _ = self._token_logprobs(model, microbatch)
            lengths = microbatch.loss_mask_RC.sum(1).long().tolist()
            scored |= dict(zip(microbatch.rollout_ids, logprob_N.split(lengths), strict=True))
            sums["scored"] += microbatch.num_completion_tokens
        return scored

    def _token_logprobs(
        self, model: Any, microbatch: Microbatch, *, with_entropy: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        options: dict[str, Any] = {"temperature": self._config.sampling.temperature, "with_entropy": with_entropy}
        decoder, shared, recompute = self._decoders[id(model)], microbatch.shared, self._recompute
        if decoder:
            return head_logprobs(model, shared.hidden(decoder, recompute=recompute), shared.target_M, **options)
        autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=self._config.training.bf16)
        with autocast, recomputed_layers(model, enabled=recompute and torch.is_grad_enabled()):
            return token_logprobs(model, microbatch.ids_RT, microbatch.selected_RT, **options)

    def _metrics(self, sums: Counter[str], norms: list[float]) -> dict[str, float]:
        tokens = max(sums["tokens"], 1.0)
        metrics = {
            "loss/policy": sums["loss"] / max(len(norms), 1),
            "loss/grad_norm": float(np.mean(norms)) if norms else 0.0,
            "loss/clip_frac": sums["clip"] / tokens,
            "loss/ratio/mean": sums["ratio"] / tokens,
            "loss/entropy": sums["entropy"] / tokens,
            "loss/sampler_mismatch": sums["mismatch"] / tokens,
            "loss/nonfinite_tokens": float(sums["nonfinite"]),
            "train/learning_rate": float(self.guard.optimizer.param_groups[0]["lr"]),
            "train/skipped_updates": float(self.guard.num_skipped),
            "tokens/trained": float(sums["tokens"]),
            "tokens/scored": float(sums["scored"]),
        }
        if self._corrects:
            metrics["loss/importance/mean"] = sums["correction"] / tokens
        if self._uses_reference:
            metrics["loss/kl"] = sums["kl"] / tokens
        return metrics


def _rows(scored: dict[RolloutId, torch.Tensor], microbatch: Microbatch) -> torch.Tensor:
    """``[R, C]`` of this microbatch's rollouts."""
    return microbatch.unflatten(torch.cat([scored[rollout_id] for rollout_id in microbatch.rollout_ids]))
