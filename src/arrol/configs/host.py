"""Options of pruning inside another trainer (TRL, verl): flat keys, since a host's own config surrounds them.

>>> parse_host({"rule": "uniform", "keep_ratio": 0.25, "probe_tokens": 128}).pruning.keep_ratio
0.25
>>> parse_host({"rule": "never", "allocation": {"rule": "pods", "train_size": 4}}).allocation.train_size
4
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

from arrol.configs.allocation import AllocationConfig, UniformAllocation
from arrol.configs.base import StrictModel, validate
from arrol.configs.method import RULE_FIELDS, PruningConfig, QualityConfig
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
    estimator: Literal["plain", "ipw", "doubly_robust", "median"] = "doubly_robust"
    """plain: the host's own advantages of the survivors, biased; ipw, doubly_robust: weighted by 1/survival; median:
    MC-GRPO's baseline and spread of the survivors."""
    success_threshold: float = 0.5
    """A reward above it counts as right: the label of the head."""


OWN_FIELDS = frozenset(HostConfig.model_fields) - {"pruning"}


def parse_host(values: Mapping[str, Any]) -> HostConfig:
    """Flat keys to a checked config; ConfigError names the first mistake and the nearest known key."""
    for key in values.keys() - OWN_FIELDS - RULE_FIELDS:
        near = difflib.get_close_matches(str(key), sorted(OWN_FIELDS | RULE_FIELDS), n=1, cutoff=0.0)[0]
        raise ConfigError(f"{key} = {values[key]!r}: unknown key; the nearest known one is {near!r}")
    rule = {"rule": DEFAULT_RULE, **{key: value for key, value in values.items() if key in RULE_FIELDS}}
    if isinstance(rule.get("probe_tokens"), int):
        rule["probe_tokens"] = [rule["probe_tokens"]]
    own = {key: value for key, value in values.items() if key in OWN_FIELDS}
    if isinstance(own.get("allocation"), str):
        own["allocation"] = {"rule": own["allocation"]}
    elif isinstance(own.get("allocation"), Mapping):
        own["allocation"] = {"rule": "uniform", **own["allocation"]}
    try:
        return validate(HostConfig, {"pruning": rule, **own})
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix("pruning.")) from None
