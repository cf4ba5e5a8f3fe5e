"""Configs that are possible and teach nothing: refused before a run, or named in a line of caution."""

from __future__ import annotations

from arrol.configs.allocation import UniformAllocation
from arrol.configs.method import NeverRule
from arrol.configs.run import RunConfig
from arrol.errors import ConfigError


def require_signal(config: RunConfig) -> None:
    """ConfigError where every group's advantages would be zero, so that the policy could not change."""
    uses_belief = config.allocation.posterior.used_for in ("advantage", "both")
    if uses_belief or config.algorithm.kl_coef:
        return
    if config.sampling.temperature == 0:
        raise ConfigError(
            "sampling.temperature = 0: the rollouts of a prompt would all be the same, so nothing is learnt; set it "
            "above 0"
        )
    if config.training.group_size == 1 and isinstance(config.allocation, UniformAllocation):
        raise ConfigError(
            "training.group_size = 1: a rollout is compared with the others of its prompt, so nothing is learnt; give "
            "2 or more"
        )


def cautions(config: RunConfig) -> list[str]:
    """What a run of this config will not do, though it looks as if it would."""
    steps, found = config.training.steps, []
    if not isinstance(config.pruning, NeverRule) and config.pruning.warmup_steps >= steps:
        found.append(
            f"pruning.warmup_steps = {config.pruning.warmup_steps}: all {steps} steps are warm-up, nothing is pruned"
        )
    if config.optimizer.lr_warmup_steps >= steps:
        found.append(
            f"optimizer.lr_warmup_steps = {config.optimizer.lr_warmup_steps}: the rate rises through all {steps} "
            f"steps and never reaches {config.optimizer.learning_rate:g}"
        )
    return found
