"""Options of pruning inside another trainer (TRL, verl): flat keys, since a host's own config surrounds them.

>>> parse_host({"rule": "uniform", "keep_ratio": 0.25, "probe_tokens": 128}).pruning.keep_ratio
0.25
>>> parse_host({"rule": "never", "allocation": {"rule": "pods", "train_size": 4}}).allocation.train_size
4
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from arrol.configs.allocation import AllocationConfig, UniformAllocation
from arrol.configs.base import StrictModel, validate
from arrol.configs.method import RULE_FIELDS, PruningConfig, QualityConfig, require_weights
from arrol.configs.suggestions import nearest_key
from arrol.errors import ConfigError

DEFAULT_RULE = "neyman"


class HostConfig(StrictModel):
    """Everything a host's user may say; the fields of the rule stand beside these."""

    pruning: PruningConfig
    """Who keeps running."""
    quality: QualityConfig = QualityConfig()
    """The head, its buffer and its calibration."""
    allocation: AllocationConfig = UniformAllocation()
    """Which rollouts of a group train, or which prompts are asked: what of a rule the host allows."""
    algorithm: Literal["grpo", "mc_grpo"] = "grpo"
    """Baseline and spread of a group: grpo, mean and standard deviation; mc_grpo, median and median absolute deviation.
    """
    correction: Literal["plain", "ipw", "doubly_robust"] = "ipw"
    """plain: survivors only, biased, the only one for mc_grpo; ipw, doubly_robust: weighted by 1/survival; rule auto
    takes ipw."""
    thinning: float = Field(0.5, ge=0, le=1)
    """Share of a batch's root mean square |advantage x weight| below which a survivor trains by an unbiased lottery; 0
    trains all. Off without pruned rollouts, with a KL or entropy term, and where the host's own advantages train."""
    success_threshold: float = 0.5
    """A reward above it counts as right: the label of the head."""
    keep_records: bool = True
    """Write rollouts and metrics of each step to ``records_dir``, for ``arrol view`` and ``arrol report``."""
    keep_texts_mib: float = Field(32.0, ge=0, le=2**20)
    """MiB of completions there, newest steps, compressed, with log-probabilities and probes, 0 to 1048576; 0: none."""
    records_dir: str | None = None
    """Folder of the records; None: a folder ``arrol`` beside the host's checkpoints."""

    @model_validator(mode="after")
    def _weighted(self) -> Self:
        if self.algorithm == "mc_grpo" and self.correction != "plain":
            raise ValueError(f"correction = {self.correction!r}: mc_grpo's median has no weighted form; set 'plain'")
        require_weights(self.pruning, self.correction, "correction")
        return self


OWN_FIELDS = frozenset(HostConfig.model_fields) - {"pruning"}


def parse_host(values: Mapping[str, Any]) -> HostConfig:
    """Flat keys to a checked config; ConfigError names the first mistake and the nearest known key."""
    for key in values.keys() - OWN_FIELDS - RULE_FIELDS:
        near = nearest_key(str(key), OWN_FIELDS | RULE_FIELDS)
        raise ConfigError(f"{key} = {values[key]!r}: unknown key; the nearest known one is {near!r}")
    rule = {"rule": DEFAULT_RULE, **{key: value for key, value in values.items() if key in RULE_FIELDS}}
    if isinstance(rule.get("probe_tokens"), int):
        rule["probe_tokens"] = [rule["probe_tokens"]]
    own = {key: value for key, value in values.items() if key in OWN_FIELDS}
    if own.get("algorithm") == "mc_grpo":
        own.setdefault("correction", "plain")
    elif rule["rule"] == "auto":
        own.setdefault("correction", "ipw")
    if isinstance(own.get("allocation"), str):
        own["allocation"] = {"rule": own["allocation"]}
    elif isinstance(own.get("allocation"), Mapping):
        own["allocation"] = {"rule": "uniform", **own["allocation"]}
    try:
        return validate(HostConfig, {"pruning": rule, **own})
    except ConfigError as error:
        raise ConfigError(str(error).replace("pruning.", "")) from None
