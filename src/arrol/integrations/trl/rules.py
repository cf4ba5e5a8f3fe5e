"""Which options TRL's public hooks allow; ``docs/trl.md`` gives the reasons. No TRL, no torch.

TRL's sampler chooses the prompts and repeats each ``num_generations`` times, and rewards come after the rollout
function has returned. A rule may choose how many rows of a group are sampled, which of them train, and the baseline.
"""

from __future__ import annotations

from typing import Literal

from arrol.configs.allocation import AllocationConfig, KnapsackAllocation
from arrol.configs.base import validate
from arrol.configs.host import HostConfig
from arrol.configs.method import AutoRule, PruningConfig
from arrol.configs.run import EngineConfig
from arrol.errors import ConfigError
from arrol.integrations.allocation import acts, refuse_unused, uses_belief

CacheGib = float | Literal["auto"]
USED = {
    "uniform": frozenset[str](),
    "pods": frozenset({"train_size"}),
    "cppo": frozenset({"train_size"}),
    "dapo": frozenset[str](),
    "reinforce_ada": frozenset({"keep_size"}),
    "aero": frozenset({"explore_size", "rejection"}),
    "knapsack": frozenset({"rollout_budget", "least", "max_group"}),
}
"""Allocation rule -> its fields that have an effect."""
_PROMPTS = "TRL's own sampler chooses the prompts"
REASONS = {
    "neyman": "TRL's sampler gives every prompt the same number of rows; the asynchronous trainer's worker takes it",
    "duet": "TRL's sampler gives every prompt the same number of rows; the asynchronous trainer's worker takes it",
    "sara": "TRL computes rewards after all rollouts of a batch; the asynchronous trainer's worker takes it",
    "pilot_commit": "TRL computes rewards after all rollouts of a batch",
    "greso": _PROMPTS,
    "mopps": _PROMPTS,
}


def changes_nothing(config: HostConfig) -> bool:
    """Nothing is scored or stopped and all rows train under TRL's own advantages."""
    return not config.pruning.has_probes and not selects(config)


def selects(config: HostConfig) -> bool:
    """Rows or advantages may differ from TRL's even when nothing was stopped."""
    return acts(config.allocation) or not config.allocation.count_truncated or config.algorithm == "mc_grpo"


def replaces_advantages(config: HostConfig) -> bool:
    """TRL trains on arrol's advantages instead of its own."""
    return config.correction != "plain" or selects(config)


def refuse_impossible(
    config: HostConfig, num_generations: int | None = None, rows: int | None = None, scale: object = "group"
) -> None:
    """ConfigError for options that TRL's hooks do not allow or would ignore; ``rows`` is the generation batch."""
    allocation = config.allocation
    refuse_unused(allocation, USED, REASONS, "TRL")
    if allocation.posterior.used_for == "allocation":
        raise ConfigError(
            f"allocation.posterior.used_for = 'allocation': {_PROMPTS}, so it would have no effect; "
            "set 'advantage', or 'nothing'"
        )
    if isinstance(allocation, KnapsackAllocation):
        _refuse_budget(allocation, num_generations, rows)
    for name, size in allocation.model_dump(include={"train_size", "keep_size"}).items():
        if num_generations is not None and size > num_generations:
            raise ConfigError(f"allocation.{name} = {size}: more than num_generations = {num_generations}; lower it")
    has_median = config.algorithm == "mc_grpo"
    if has_median and uses_belief(allocation):
        raise ConfigError(
            "algorithm = 'mc_grpo': the posterior is a baseline already; set 'grpo', or "
            "allocation.posterior.used_for = 'nothing'"
        )
    if scale == "batch" and (has_median or uses_belief(allocation)):
        raise ConfigError("scale_rewards = 'batch': posterior and mc_grpo have their own spread; set 'group' or 'none'")


def refuse_probes(rule: PruningConfig, longest: int, num_generations: int | None) -> None:
    """ConfigError where no rollout reaches the last probe, or the share kept of a group is below the floor."""
    if not rule.has_probes:
        return
    if rule.probe_tokens[-1] >= longest:
        raise ConfigError(
            f"probe_tokens = {list(rule.probe_tokens)}: no rollout runs beyond max_completion_length = {longest}; "
            "probe earlier"
        )
    if num_generations is None or isinstance(rule, AutoRule):  # auto's keep_ratio is the least that it may choose
        return
    if rule.keep_ratio * num_generations < rule.min_survivors:
        raise ConfigError(
            f"keep_ratio = {rule.keep_ratio:g}: leaves {rule.keep_ratio * num_generations:g} of num_generations "
            f"= {num_generations}, fewer than min_survivors = {rule.min_survivors}; raise one or lower the other"
        )


def refuse_remote(config: HostConfig, remedy: str) -> None:
    """ConfigError for a rule whose decisions would fall in vLLM's scheduler, which sees no outcomes."""
    if isinstance(config.pruning, AutoRule):
        raise ConfigError(f"rule = 'auto': vLLM's scheduler sees no outcomes to learn from; set {remedy}")


def _refuse_budget(allocation: KnapsackAllocation, num_generations: int | None, rows: int | None) -> None:
    for name, value in (("max_group", allocation.max_group), ("least", allocation.least)):
        if num_generations is not None and value > num_generations:
            raise ConfigError(
                f"allocation.{name} = {value}: more than num_generations = {num_generations} rows of a group; lower it"
            )
    budget = allocation.rollout_budget
    fewest = 1 if rows is None or num_generations is None else allocation.least * (rows // num_generations)
    if budget < fewest or (rows is not None and budget > rows):
        raise ConfigError(
            f"allocation.rollout_budget = {budget}: give the rollouts of a generation batch, from {fewest} "
            f"(allocation.least per prompt) to {'its number of' if rows is None else rows} rows"
        )


def share_of(allocation: AllocationConfig, num_generations: int, processes: int) -> AllocationConfig:
    """The allocation of one process: an equal part of the rollout budget for its own prompts."""
    if not isinstance(allocation, KnapsackAllocation):
        return allocation
    most = allocation.max_group or num_generations
    return allocation.model_copy(update={"rollout_budget": allocation.rollout_budget // processes, "max_group": most})


def cache_budget(value: float | str | None) -> CacheGib:
    """Checked ``EngineConfig.cache_gib``; a flag gives the number as text, None is auto."""
    try:
        given: object = "auto" if value is None else float(value)
    except ValueError:
        given = value
    try:
        return validate(EngineConfig, {"cache_gib": given}).cache_gib
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix("engine.")) from None
