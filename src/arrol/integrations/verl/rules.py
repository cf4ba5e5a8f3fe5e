"""Which allocation rules verl allows by public hooks; ``docs/verl.md`` says why not the others. No verl, no Ray.

Three hooks carry them: a row of a batch may name its own number of rollouts (``__rollout_n__``, 0 passes the prompt
over), the replay sampler sees rewards before anything is computed from a row, and the manager sees each batch before
it is sampled. verl computes advantages itself from the rows that are left and fills the batch up to whole mini-batches,
so the number of rows that train must be the same in every step.
"""

from __future__ import annotations

from arrol.configs.allocation import AllocationConfig, GresoAllocation, MoppsAllocation, PodsAllocation
from arrol.configs.host import HostConfig
from arrol.errors import ConfigError
from arrol.integrations.allocation import acts, refuse_unused, uses_belief

USED = {
    "uniform": frozenset[str](),
    "mopps": frozenset({"candidates", "target_rate"}),
    "greso": frozenset({"max_draws", "easy_repeat", "hard_repeat", "repeat_step", "target_uniform"}),
    "knapsack": frozenset({"least", "max_group"}),
    "pods": frozenset({"train_size"}),
}
"""Rule -> its fields that have an effect."""
_VARIES = "the number of rows would vary from step to step, and verl would train on padding"
REASONS = {
    "dapo": "verl has it: algorithm.filter_groups.enable=True",
    "cppo": "verl computes advantages from the rows that are left, so the baseline of all is lost",
    "reinforce_ada": _VARIES,
    "aero": _VARIES,
    "pilot_commit": _VARIES,
}


def candidates(config: AllocationConfig) -> int:
    """Prompts drawn from the data per prompt that is asked."""
    if isinstance(config, GresoAllocation):
        return int(config.max_draws)
    return config.candidates if isinstance(config, MoppsAllocation) else 1


def train_size(config: AllocationConfig, survivors: int) -> int:
    """Rollouts of a prompt that train."""
    return config.train_size if isinstance(config, PodsAllocation) else survivors


def refuse_impossible(host: HostConfig, way: str) -> None:
    """ConfigError for what verl does not allow, or would ignore."""
    config = host.allocation
    refuse_unused(config, USED, REASONS, "verl")
    if uses_belief(config):
        raise ConfigError(
            f"allocation.posterior.used_for = {config.posterior.used_for!r}: verl computes advantages itself; "
            "leave it out, or train with arrol or TRL"
        )
    for name in {"max_draws", "candidates"} & USED[config.rule]:
        factor = getattr(config, name)
        if factor < 2 or factor != int(factor):
            raise ConfigError(
                f"allocation.{name} = {factor:g}: it multiplies data.train_batch_size; take a whole number, at least 2"
            )
    if config.rule == "knapsack" and host.pruning.rule != "never":
        raise ConfigError(
            f"rule = {host.pruning.rule!r}: groups of allocation.rule = 'knapsack' differ in size, and "
            f"{_VARIES}; set rule = 'never'"
        )
    if acts(config) and way == "engine":
        raise ConfigError("way = 'engine': survival stays unknown there, and the rules learn from it; use two_calls")
