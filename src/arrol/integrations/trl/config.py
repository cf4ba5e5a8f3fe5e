"""TRL's GRPOConfig with the fields of pruning; ``TrlParser`` reads them from YAML and from flags.

Names are those of the project's own configs, except where TRL has the name already: ``pruning_warmup_steps``, since
``warmup_steps`` warms the learning rate up.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import trl

from arrol.configs.host import HostConfig, parse_host
from arrol.configs.method import NeverRule, OracleRule
from arrol.errors import ConfigError
from arrol.integrations.allocation import acts
from arrol.integrations.trl.rules import refuse_impossible

RENAMED = {"pruning_warmup_steps": "warmup_steps", "allocation": "allocation.rule"}
"""Our field -> the rule's, where TRL has taken the name."""
RULE_OPTIONS = (
    "rule",
    "keep_ratio",
    "probe_tokens",
    "draw",
    "min_survival",
    "min_survivors",
    "pruning_warmup_steps",
)
HOST_FIELDS = ("algorithm", "correction", "success_threshold")
MOST_PROBE_TOKENS = 512
"""Where the method probes when completions are long enough."""


@dataclass
class GRPOConfig(trl.GRPOConfig):
    """Everything TRL knows, and pruning. ConfigError (a ValueError) names the first field that is wrong."""

    rule: str = field(
        default="neyman",
        metadata={"help": "Who keeps running: neyman, balanced, paper, uniform, confidence, extremes; never is TRL."},
    )
    keep_ratio: float = field(default=0.5, metadata={"help": "Share of the candidates that survive, in (0, 1]."})
    probe_tokens: list[int] | None = field(
        default=None,
        metadata={
            "help": "Completion lengths at which rollouts are judged; half of max_completion_length by default, "
            "at most 512."
        },
    )
    draw: str | None = field(
        default=None, metadata={"help": "systematic (exact count per group) or bernoulli; default: the rule's own."}
    )
    min_survival: float = field(
        default=0.1, metadata={"help": "Least probability of surviving, in (0, 1]; the largest weight is its inverse."}
    )
    min_survivors: int = field(default=2, metadata={"help": "Rollouts of a group that are left in any case."})
    pruning_warmup_steps: int = field(
        default=20, metadata={"help": "Generation batches in which all are kept while the head learns."}
    )
    algorithm: str = field(
        default="grpo",
        metadata={"help": "grpo: baseline and spread as TRL has them; mc_grpo: median and median absolute deviation."},
    )
    correction: str | None = field(
        default=None,
        metadata={
            "help": "doubly_robust or ipw weight survivors by 1/survival, so that the gradient aims at the whole "
            "group's; plain takes survivors as they are; default: doubly_robust, with mc_grpo plain."
        },
    )
    allocation: str = field(
        default="uniform",
        metadata={"help": "Which rows of a group train: uniform (all), pods, cppo, dapo, reinforce_ada, aero."},
    )
    allocation_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Fields of that rule, as JSON or a mapping, such as {train_size: 4}."}
    )
    success_reward: str | None = field(
        default=None,
        metadata={"help": "Name of the reward function that says what is right; needed when there are several."},
    )
    success_threshold: float = field(default=0.5, metadata={"help": "Its value above which an answer is right."})
    rule_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Further fields of the rule, as JSON or a mapping, such as {scope: batch}."}
    )
    quality: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Fields of the quality head, as JSON or a mapping, such as {hidden_size: 64}."}
    )
    decode_rows: int = field(
        default=256, metadata={"help": "Rollouts that the embedded engine decodes at once; without vLLM."}
    )
    vllm_two_phase: bool = field(
        default=False,
        metadata={
            "help": "Prune by two calls instead of inside vLLM, for servers that were started without our classes."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.host_config()

    def host_config(self) -> HostConfig:
        """The checked options."""
        options: dict[str, Any] = {RENAMED.get(name, name): getattr(self, name) for name in RULE_OPTIONS}
        options["probe_tokens"] = list(self.probe_tokens or [_default_probe(self.max_completion_length)])
        if self.draw is None:
            del options["draw"]
        options |= {name: getattr(self, name) for name in HOST_FIELDS}
        if self.correction is None:
            del options["correction"]
        options |= _mapping("rule_options", self.rule_options)
        options["quality"] = _mapping("quality", self.quality)
        options["allocation"] = _mapping("allocation_options", self.allocation_options) | {"rule": self.allocation}
        try:
            config = parse_host(options)
            refuse_impossible(config, self.num_generations, self.generation_batch_size, self.scale_rewards)
        except ConfigError as error:
            raise ConfigError(_in_our_words(str(error))) from None
        if isinstance(config.pruning, OracleRule):
            raise ConfigError("rule = 'oracle': it decides after verification, which only arrol train can; use another")
        if not self.is_off(config):
            _require_possible(self, config)
        return config

    @staticmethod
    def is_off(config: HostConfig) -> bool:
        """Nothing is stopped, nobody is scored and all rows train: TRL is left alone."""
        idle = isinstance(config.pruning, NeverRule) and not config.pruning.observe
        return idle and not acts(config.allocation) and config.algorithm == "grpo"


def _default_probe(longest: int | None) -> int:
    """Half of the length limit, at most where the method probes long completions."""
    return min(MOST_PROBE_TOKENS, max(1, (longest or 2) // 2))


def _require_possible(args: GRPOConfig, config: HostConfig) -> None:
    longest, rule = args.max_completion_length, config.pruning
    if longest is not None and rule.probe_tokens[-1] >= longest:
        raise ConfigError(
            f"probe_tokens = {list(rule.probe_tokens)}: nobody gets beyond max_completion_length = {longest}; "
            "probe earlier"
        )
    if args.decode_rows < 1:
        raise ConfigError(f"decode_rows = {args.decode_rows}: at least one rollout must decode at a time; raise it")
    if args.vllm_two_phase and not args.use_vllm:
        raise ConfigError(
            "vllm_two_phase = True: there is no vLLM without use_vllm = True; set that too, or leave it out"
        )
    if args.num_generations is not None and rule.keep_ratio * args.num_generations < rule.min_survivors:
        raise ConfigError(
            f"keep_ratio = {rule.keep_ratio:g}: leaves {rule.keep_ratio * args.num_generations:g} of num_generations "
            f"= {args.num_generations}, fewer than min_survivors = {rule.min_survivors}; raise one or lower the other"
        )


def _mapping(name: str, value: dict[str, Any] | str | None) -> dict[str, Any]:
    """A mapping, or the JSON that a flag holds."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = [value]  # type: ignore[assignment]
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{name} = {value!r}: give a mapping, or JSON such as '{{\"hidden_size\": 64}}'")
    return value


def _in_our_words(message: str) -> str:
    for ours, theirs in RENAMED.items():
        if message.startswith(f"{theirs} ="):
            return ours + message.removeprefix(theirs)
    return message
