"""Which allocation rules TRL allows by public hooks; ``docs/trl.md`` says why not the others. No TRL, no torch.

TRL's sampler names the prompts, each ``num_generations`` times, and rewards come after the rollout function returned:
nothing can be asked for once a reward is known. What is left is which rows train, and against which baseline.
"""

from __future__ import annotations

from arrol.configs.host import HostConfig
from arrol.errors import ConfigError
from arrol.integrations.allocation import acts, refuse_unused, uses_belief

USED = {
    "uniform": frozenset[str](),
    "pods": frozenset({"train_size"}),
    "cppo": frozenset({"train_size"}),
    "dapo": frozenset[str](),
    "reinforce_ada": frozenset({"keep_size"}),
    "aero": frozenset({"explore_size", "rejection"}),
}
"""Rule -> its fields that have an effect."""
_LATE, _PROMPTS = "TRL asks for rewards after all rollouts of a batch", "TRL's own sampler names the prompts"
REASONS = {
    "pilot_commit": _LATE,
    "knapsack": "TRL samples num_generations rollouts of every prompt",
    "greso": _PROMPTS,
    "mopps": _PROMPTS,
}


def refuse_impossible(config: HostConfig, num_generations: int | None = None, scale: object = "group") -> None:
    """ConfigError for what TRL does not allow, or would ignore."""
    allocation = config.allocation
    refuse_unused(allocation, USED, REASONS, "TRL")
    if allocation.posterior.used_for == "allocation":
        raise ConfigError(
            f"allocation.posterior.used_for = 'allocation': {REASONS['greso']}, so it would have no effect; "
            "set 'advantage', or 'nothing'"
        )
    size = getattr(allocation, "train_size", getattr(allocation, "keep_size", 0))
    if num_generations is not None and size > num_generations:
        name = "train_size" if hasattr(allocation, "train_size") else "keep_size"
        raise ConfigError(f"allocation.{name} = {size}: more than num_generations = {num_generations}; lower it")
    if config.estimator == "median" and uses_belief(allocation):
        raise ConfigError(
            "estimator = 'median': the posterior is a baseline already; set another estimator, or "
            "allocation.posterior.used_for = 'nothing'"
        )
    if scale == "batch" and (config.estimator == "median" or uses_belief(allocation)):
        raise ConfigError(
            "scale_rewards = 'batch': a posterior and a median bring their own spread; set 'group' or 'none'"
        )


def replaces_advantages(config: HostConfig) -> bool:
    """TRL's own advantages are not those that train."""
    return config.estimator != "plain" or acts(config.allocation)
