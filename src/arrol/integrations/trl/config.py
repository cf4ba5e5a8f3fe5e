"""TRL's GRPOConfig with the fields of pruning; ``TrlParser`` reads them from YAML and from flags.

Names are those of arrol's own configs, except ``pruning_warmup_steps``: TRL's ``warmup_steps`` is the learning rate's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import trl

from arrol.configs.host import HostConfig, parse_host
from arrol.configs.method import OracleRule
from arrol.errors import ConfigError
from arrol.integrations.trl.rules import cache_budget, changes_nothing, refuse_impossible, refuse_probes
from arrol.integrations.warmup import LATEST_PROBE, without_probes

RENAMED = {"pruning_warmup_steps": "warmup_steps", "allocation": "allocation.rule"}
"""Field here -> field of arrol's configs, where TRL has taken the name."""
FLAT_FIELDS = (
    *("rule", "keep_ratio", "probe_tokens", "draw", "min_survival", "min_survivors", "pruning_warmup_steps"),
    *("algorithm", "correction", "thinning", "success_threshold"),
    *("keep_records", "keep_texts_mib", "records_dir"),
)
"""Fields that :func:`arrol.configs.host.parse_host` takes as they are."""
Options = dict[str, Any] | str | None


@dataclass
class GRPOConfig(trl.GRPOConfig):
    """TRL's fields and those of pruning. ConfigError (a ValueError) names the first field that is wrong."""

    rule: str = field(
        default="neyman",
        metadata={
            "help": "Survival rule: neyman, balanced, paper, uniform, confidence, extremes, auto; never: no pruning."
        },
    )
    keep_ratio: float = field(default=0.5, metadata={"help": "Share of the candidates that survive, in (0, 1]."})
    probe_tokens: list[int] | None = field(
        default=None,
        metadata={
            "help": "Completion lengths at which rollouts are scored; default: half of the median length, at most 512."
        },
    )
    draw: str | None = field(
        default=None, metadata={"help": "systematic (exact count per group) or bernoulli; default: the rule's own."}
    )
    min_survival: float | None = field(
        default=None,
        metadata={
            "help": "Least survival probability, in (0, 1]; the largest weight is its inverse. Default: 0.2 with "
            "neyman, else 0.1."
        },
    )
    min_survivors: int = field(default=2, metadata={"help": "Rollouts of a group that always survive."})
    pruning_warmup_steps: int = field(
        default=20, metadata={"help": "Generation batches without pruning, while the head learns."}
    )
    algorithm: str = field(
        default="grpo",
        metadata={"help": "grpo: TRL's baseline and spread; mc_grpo: median and median absolute deviation."},
    )
    correction: str | None = field(
        default=None,
        metadata={
            "help": "doubly_robust, ipw: survivors weighted by 1/survival, which estimates the whole group's gradient; "
            "plain: unweighted survivors; default: ipw, with mc_grpo plain."
        },
    )
    thinning: float = field(
        default=0.5,
        metadata={
            "help": "Survivors with |advantage x weight| below this share of the batch's root mean square train by an "
            "unbiased lottery; 0 trains all."
        },
    )
    allocation: str = field(
        default="uniform",
        metadata={"help": "Which rows train: uniform (all), pods, cppo, dapo, reinforce_ada, aero; or knapsack."},
    )
    allocation_options: Options = field(
        default=None, metadata={"help": "Fields of the allocation rule: JSON or a mapping, such as {train_size: 4}."}
    )
    success_reward: str | None = field(
        default=None, metadata={"help": "Reward function that says what is right; required with several."}
    )
    success_threshold: float = field(
        default=0.5, metadata={"help": "An answer is right above this value of success_reward."}
    )
    rule_options: Options = field(
        default=None, metadata={"help": "Further fields of the rule: JSON or a mapping, such as {scope: batch}."}
    )
    quality: Options = field(
        default=None, metadata={"help": "Fields of the head: JSON or a mapping, such as {hidden_size: 64}."}
    )
    cache_gib: float | str | None = field(
        default=None,
        metadata={"help": "Key-value cache of the embedded engine, in GiB; default: auto, half of the free memory."},
    )
    vllm_two_phase: bool = field(
        default=False, metadata={"help": "One vLLM call per probe, for servers started without arrol's classes."}
    )

    keep_records: bool = field(
        default=True, metadata={"help": "Write rollouts and metrics for arrol view and arrol report."}
    )
    keep_texts_mib: float = field(
        default=32.0, metadata={"help": "MiB of completions that are kept there, newest steps; 0: none."}
    )
    records_dir: str | None = field(
        default=None, metadata={"help": "Folder of the records; default: OUTPUT_DIR/arrol."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        cache_budget(self.cache_gib)
        self.host_config()

    def host_config(self) -> HostConfig:
        """The options of pruning, checked; no probe where the first lengths choose it."""
        options = {RENAMED.get(name, name): getattr(self, name) for name in FLAT_FIELDS}
        half = max(1, (self.max_completion_length or 2) // 2)
        options["probe_tokens"] = self.probe_tokens or [min(LATEST_PROBE, half)]
        for name in ("draw", "min_survival", "correction"):
            if options[name] is None:
                del options[name]
        rule_options = _mapping("rule_options", self.rule_options)
        options |= rule_options
        options["quality"] = _mapping("quality", self.quality)
        options["allocation"] = _mapping("allocation_options", self.allocation_options) | {"rule": self.allocation}
        try:
            config = parse_host(options)
            refuse_impossible(config, self.num_generations, self.generation_batch_size, self.scale_rewards)
        except ConfigError as error:
            raise ConfigError(_with_own_names(str(error))) from None
        if isinstance(config.pruning, OracleRule):
            raise ConfigError("rule = 'oracle': decides after verification, which only arrol train can; use another")
        if not changes_nothing(config):
            _require_possible(self, config)
        return config if self.probe_tokens or "probe_tokens" in rule_options else without_probes(config)


def _require_possible(args: GRPOConfig, config: HostConfig) -> None:
    longest, rule = args.max_completion_length, config.pruning
    if longest is None:
        raise ConfigError("max_completion_length = None: pruning needs a limit; set a number, or rule = 'never'")
    if args.vllm_two_phase and not args.use_vllm:
        raise ConfigError("vllm_two_phase = True: has no effect without vLLM; set use_vllm = True, or leave it out")
    refuse_probes(rule, longest, args.num_generations)


def _mapping(name: str, value: Options) -> dict[str, Any]:
    """A mapping as it is, or parsed from a flag's JSON."""
    given: object = value
    if isinstance(value, str):
        try:
            given = json.loads(value)
        except json.JSONDecodeError:
            given = value
    if given is not None and not isinstance(given, dict):
        raise ConfigError(f"{name} = {given!r}: give a mapping, or JSON such as '{{\"hidden_size\": 64}}'")
    return given or {}


def _with_own_names(message: str) -> str:
    """A message about a renamed field, under its name here."""
    for ours, theirs in RENAMED.items():
        if message.startswith(f"{theirs} ="):
            return ours + message.removeprefix(theirs)
    return message
