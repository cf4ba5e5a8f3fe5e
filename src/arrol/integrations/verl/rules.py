"""Which allocation rules work inside verl, by its public hooks; ``docs/verl.md`` gives the reasons. No verl, no Ray.

A row of a batch may set its own number of rollouts (0 skips the prompt), and the replay sampler sees rewards before
anything is computed from a row. verl starts all rollouts of a prompt at once and computes advantages from the rows that
are left.
"""

from __future__ import annotations

from collections.abc import Iterable

from arrol.configs.allocation import AllocationConfig, GresoAllocation, MoppsAllocation, PodsAllocation
from arrol.configs.host import HostConfig
from arrol.errors import ConfigError
from arrol.integrations.allocation import acts, refuse_unused, uses_belief

Refusal = tuple[str, object, object, str]
"""Field, its value, whether that is wrong, reason and next step."""
USED = {
    "uniform": frozenset[str](),
    "mopps": frozenset({"candidates", "target_rate"}),
    "greso": frozenset({"max_draws", "easy_repeat", "hard_repeat", "repeat_step", "target_uniform"}),
    "knapsack": frozenset({"least", "max_group"}),
    "pods": frozenset({"train_size"}),
}
"""Rule -> its fields that have an effect."""
_WAVES = "it asks for more rollouts of a prompt within a step, and verl starts all of them at once"
REASONS = {
    "dapo": "verl has it: algorithm.filter_groups.enable=True",
    "neyman": "verl weights every row alike, so a prompt with more rollouts would count more",
    "duet": "verl weights every row alike, so a prompt with more rollouts would count more",
    "cppo": "verl computes advantages from the rows that are left, so the baseline of all is lost",
    "reinforce_ada": _WAVES,
    "aero": _WAVES,
    "pilot_commit": _WAVES,
    "sara": _WAVES,
}


def candidates(config: AllocationConfig) -> int:
    """Prompts drawn from the data per prompt that is asked."""
    return int(_draws(config)[1])


def train_size(config: AllocationConfig, survivors: int) -> int:
    """Rollouts of a prompt that train."""
    return config.train_size if isinstance(config, PodsAllocation) else survivors


def refuse_impossible(host: HostConfig, way: str) -> None:
    """ConfigError for an allocation rule, or a field of one, that has no effect or does harm inside verl."""
    config = host.allocation
    refuse_unused(config, USED, REASONS, "verl")
    used_for, (name, factor) = config.posterior.used_for, _draws(config)
    refuse(
        [
            ("allocation.posterior.used_for", used_for, uses_belief(config),
             "verl computes advantages itself; leave it out, or train with arrol or TRL"),
            (f"allocation.{name}", factor, name and (factor < 2 or factor != int(factor)),
             "it multiplies data.train_batch_size; use a whole number, at least 2"),
            ("allocation.count_truncated", False, not config.count_truncated and not isinstance(config, PodsAllocation),
             "verl trains every row that is left; leave it out, or use allocation.rule = 'pods', which selects rows"),
            ("way", way, acts(config) and way == "engine",
             "survival is unknown there, and allocation rules learn from it; use two_calls"),
        ]
    )  # fmt: skip


def refuse(refusals: Iterable[Refusal]) -> None:
    """ConfigError for the first setting that is wrong."""
    for field, value, is_wrong, advice in refusals:
        if is_wrong:
            raise ConfigError(f"{field} = {value!r}: {advice}")


def _draws(config: AllocationConfig) -> tuple[str, float]:
    """The field with the number of prompts drawn per prompt asked, and that number."""
    if isinstance(config, GresoAllocation):
        return "max_draws", config.max_draws
    return ("candidates", config.candidates) if isinstance(config, MoppsAllocation) else ("", 1)
