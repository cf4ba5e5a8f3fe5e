"""Which allocation rules TRL allows by public hooks; ``docs/trl.md`` says why not the others. No TRL, no torch.

TRL's sampler names the prompts, each ``num_generations`` times, and rewards come after the rollout function returned:
nothing can be asked for once a reward is known. What is left is which rows train, against which baseline, and how many
of a group's rows are sampled at all: the others look like stopped ones.
"""

from __future__ import annotations

from arrol.configs.allocation import AllocationConfig, KnapsackAllocation
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
    "knapsack": frozenset({"rollout_budget", "least", "max_group"}),
}
"""Rule -> its fields that have an effect."""
_PROMPTS = "TRL's own sampler names the prompts"
REASONS = {
    "pilot_commit": "TRL asks for rewards after all rollouts of a batch",
    "greso": _PROMPTS,
    "mopps": _PROMPTS,
}


def refuse_impossible(
    config: HostConfig, num_generations: int | None = None, rows: int | None = None, scale: object = "group"
) -> None:
    """ConfigError for what TRL does not allow, or would ignore; ``rows`` of a generation batch."""
    allocation = config.allocation
    refuse_unused(allocation, USED, REASONS, "TRL")
    if allocation.posterior.used_for == "allocation":
        raise ConfigError(
            f"allocation.posterior.used_for = 'allocation': {_PROMPTS}, so it would have no effect; "
            "set 'advantage', or 'nothing'"
        )
    if isinstance(allocation, KnapsackAllocation):
        _refuse_budget(allocation, num_generations, rows)
    size = getattr(allocation, "train_size", getattr(allocation, "keep_size", 0))
    if num_generations is not None and size > num_generations:
        name = "train_size" if hasattr(allocation, "train_size") else "keep_size"
        raise ConfigError(f"allocation.{name} = {size}: more than num_generations = {num_generations}; lower it")
    if config.algorithm == "mc_grpo" and uses_belief(allocation):
        raise ConfigError(
            "algorithm = 'mc_grpo': the posterior is a baseline already; set 'grpo', or "
            "allocation.posterior.used_for = 'nothing'"
        )
    if scale == "batch" and (config.algorithm == "mc_grpo" or uses_belief(allocation)):
        raise ConfigError(
            "scale_rewards = 'batch': a posterior and mc_grpo bring their own spread; set 'group' or 'none'"
        )


def _refuse_budget(allocation: KnapsackAllocation, num_generations: int | None, rows: int | None) -> None:
    budget, least, most = allocation.rollout_budget, allocation.least, allocation.max_group
    if num_generations is not None and max(most, least) > num_generations:
        name, value = ("max_group", most) if most > num_generations else ("least", least)
        raise ConfigError(
            f"allocation.{name} = {value}: more than num_generations = {num_generations} rows of a group; lower it"
        )
    fewest = 1 if rows is None or num_generations is None else least * (rows // num_generations)
    if budget < fewest or (rows is not None and budget > rows):
        raise ConfigError(
            f"allocation.rollout_budget = {budget}: num_generations is the largest group here; set the rollouts of a "
            f"generation batch, from {fewest} to its {'number of' if rows is None else rows} rows"
        )


def share_of(allocation: AllocationConfig, num_generations: int, processes: int) -> AllocationConfig:
    """Of one process: each spends an equal part of the budget on its own prompts."""
    if not isinstance(allocation, KnapsackAllocation):
        return allocation
    most = allocation.max_group or num_generations
    return allocation.model_copy(update={"rollout_budget": allocation.rollout_budget // processes, "max_group": most})


def replaces_advantages(config: HostConfig) -> bool:
    """TRL's own advantages are not those that train."""
    return config.correction != "plain" or config.algorithm == "mc_grpo" or acts(config.allocation)
