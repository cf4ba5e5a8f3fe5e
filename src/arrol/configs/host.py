"""Options of pruning inside another trainer (TRL, verl): flat keys, since a host's own config surrounds them.

>>> parse_host({"rule": "uniform", "keep_ratio": 0.25, "probe_tokens": 128}).pruning.keep_ratio
0.25
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

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
    estimator: Literal["plain", "ipw", "doubly_robust"] = "doubly_robust"
    """plain: the host's own advantages of the survivors, biased; ipw, doubly_robust: weighted by 1/survival."""
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
    try:
        return validate(HostConfig, {"pruning": rule, **{k: v for k, v in values.items() if k in OWN_FIELDS}})
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix("pruning.")) from None
