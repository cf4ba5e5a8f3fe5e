"""The policy's loss: a clipped surrogate with two bounds, three denominators, optional KL, importance correction.

For rollout i and token t, with ratio r = exp(policy - behaviour) and advantage A of the rollout:

    l_it = -min(r A, clip(r, 1 - low, 1 + high) A) + kl_coef k3(reference - policy)
    loss = sum_i (w_i / denominator_i) sum_t m_it c_it l_it

* behaviour: the sampler's log-probabilities; with an importance cap, the learner's own from before the step's first
  update, and then c = min(exp(learner before - sampler), cap) corrects for an engine that differs (truncated importance
  sampling). Else c = 1.
* every log-ratio is clamped to +-MAX_LOG_RATIO; a token with a log-probability that is not finite adds nothing to the
  loss, is counted, and stays in the denominators.
* k3(x) = exp(x) - x - 1, never negative (Schulman's third estimator).
* denominator: sequence_mean, rollouts times the completion's own length (GRPO); token_mean, all tokens (DAPO);
  constant, rollouts times the length limit (Dr. GRPO). It is handed in for the whole batch, so the split into
  microbatches changes nothing.

The loss knows no pruning: it sees masks, weights and denominators. Legend: ``R`` rollouts, ``T`` completion positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from arrol.configs.method import AlgorithmConfig

MAX_LOG_RATIO = 20.0
"""Bound on the magnitude of a log-ratio: exp(20) is about 5e8."""


@dataclass(frozen=True)
class Denominator:
    """Sizes of the whole optimiser step, not of a microbatch."""

    rollouts: float
    """Rollouts started (weights 1/survival), their weighted count (self-normalised), or survivors (plain)."""
    tokens: float
    """Completion tokens, each counted as often as its rollout's weight."""
    max_completion_tokens: int


@dataclass(frozen=True)
class LossInputs:
    """One microbatch. Log-probabilities are of the sampled tokens, anything where ``loss_mask`` is 0."""

    policy_logprobs_RT: torch.Tensor
    sampler_logprobs_RT: torch.Tensor
    loss_mask_RT: torch.Tensor
    """1 for tokens that learn, else 0."""
    advantage_R: torch.Tensor
    weight_R: torch.Tensor
    learner_logprobs_RT: torch.Tensor | None = None
    """The learner's own from before the update (importance correction)."""
    reference_logprobs_RT: torch.Tensor | None = None


def policy_loss(
    inputs: LossInputs, config: AlgorithmConfig, denominator: Denominator
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The scalar loss, already normalised, and sums over tokens of what the metrics need."""
    policy_RT, mask_RT = inputs.policy_logprobs_RT, inputs.loss_mask_RT
    assert policy_RT.shape == inputs.sampler_logprobs_RT.shape == mask_RT.shape, (
        "log-probabilities and mask differ in shape"
    )
    assert inputs.advantage_R.shape == inputs.weight_R.shape == policy_RT.shape[:1], (
        "one advantage and weight per rollout"
    )
    learner_RT = inputs.learner_logprobs_RT if config.importance_cap > 0 else None
    reference_RT = inputs.reference_logprobs_RT if config.kl_coef > 0 else None
    sampler_RT, length_R = inputs.sampler_logprobs_RT, mask_RT.sum(1)
    read = [x_RT for x_RT in (policy_RT, sampler_RT, learner_RT, reference_RT) if x_RT is not None]
    mask_RT = mask_RT * torch.stack([x_RT.isfinite() for x_RT in read]).all(0)

    def log_ratio(upper_RT: torch.Tensor, lower_RT: torch.Tensor) -> torch.Tensor:
        gap_RT = torch.where(mask_RT > 0, upper_RT - lower_RT, 0.0)
        return gap_RT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)

    behaviour_RT, correction_RT = sampler_RT, torch.ones_like(mask_RT)
    if learner_RT is not None:
        behaviour_RT = learner_RT
        correction_RT = log_ratio(learner_RT, sampler_RT).exp().clamp(max=config.importance_cap)
    ratio_RT = log_ratio(policy_RT, behaviour_RT).exp()
    advantage_R1 = inputs.advantage_R[:, None]
    clipped_RT = ratio_RT.clamp(1 - config.clip_ratio_low, 1 + config.clip_ratio_high)
    token_loss_RT = -torch.minimum(ratio_RT * advantage_R1, clipped_RT * advantage_R1)
    sums = {
        "tokens": length_R.sum(),
        "nonfinite": length_R.sum() - mask_RT.sum(),
        "clip": (((ratio_RT * advantage_R1) > (clipped_RT * advantage_R1)) * mask_RT).sum(),
        "ratio": (ratio_RT * mask_RT).sum(),
        "correction": (correction_RT * mask_RT).sum(),
    }
    if reference_RT is not None:
        gap_RT = log_ratio(reference_RT, policy_RT)
        k3_RT = gap_RT.exp() - gap_RT - 1
        token_loss_RT = token_loss_RT + config.kl_coef * k3_RT
        sums["kl"] = (k3_RT * mask_RT).sum()
    weighted_R = inputs.weight_R * (token_loss_RT * correction_RT * mask_RT).sum(1)
    loss = aggregate(weighted_R, length_R, config.aggregation, denominator)
    return loss, {name: value.detach() for name, value in sums.items()}


def aggregate(
    weighted_R: torch.Tensor, length_R: torch.Tensor, aggregation: str, denominator: Denominator
) -> torch.Tensor:
    """Token sums per rollout to a scalar, under one of the three denominators."""
    if aggregation == "sequence_mean":
        return (weighted_R / length_R.clamp(min=1)).sum() / denominator.rollouts
    if aggregation == "token_mean":
        return weighted_R.sum() / denominator.tokens
    assert aggregation == "constant", aggregation
    return weighted_R.sum() / (denominator.rollouts * denominator.max_completion_tokens)
