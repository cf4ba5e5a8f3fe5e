"""The options under ``arrol`` in a verl command: the flat options of every host, and ``way``.

>>> options = parse_options({"keep_ratio": 0.5, "probe_tokens": 16, "rule": "uniform"})
>>> options.way, options.host.correction, options.host.pruning.barrier_timeout
('two_calls', 'plain', 600.0)

Deviations from the other hosts: (1) the correction is ``plain``, because verl computes advantages itself; (2) the head
reads log-probabilities only, because verl's servers return no hidden states; (3) where siblings are drawn together, a
rollout that ended before the probe counts as kept, so that every group keeps the same number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from arrol.configs.host import DEFAULT_RULE, HostConfig, parse_host
from arrol.configs.method import NeymanRule
from arrol.errors import ConfigError
from arrol.integrations.allocation import acts
from arrol.integrations.verl.rules import refuse, refuse_impossible
from arrol.integrations.warmup import LATEST_PROBE

Way = Literal["two_calls", "engine"]
BARRIER_TIMEOUT_S = 600
"""Default deadline: long, because a draw without siblings keeps no exact share."""
BARRIER_STEPS = 64
"""Default deadline inside vLLM, in decode steps."""
NAME = "arrol"
"""Key of the options in verl's config, name of the agent loop, and row field with the ticket."""


@dataclass(frozen=True)
class VerlOptions:
    """Checked options."""

    host: HostConfig
    way: Way = "two_calls"
    """two_calls: generate up to a probe, decide, continue, with any server; engine: inside vLLM, in one call."""
    chooses_probe: bool = False
    """The first lengths choose the probe; the one in ``host`` stands for it until then, in checks."""

    @property
    def has_allocation(self) -> bool:
        """An allocation rule other than ``uniform`` is set."""
        return acts(self.host.allocation)

    @property
    def is_active(self) -> bool:
        """False: verl runs as it does without arrol."""
        return self.host.pruning.has_probes or self.has_allocation

    @property
    def keeps_share_of_group(self) -> bool:
        """``keep_ratio`` is a share of each group, not of its candidates: siblings are drawn together and alone."""
        rule = self.host.pruning
        return rule.draw == "systematic" and not (isinstance(rule, NeymanRule) and rule.scope == "batch")

    @property
    def has_head(self) -> bool:
        """The rule reads the quality that the head predicts."""
        return self.host.pruning.rule in ("balanced", "neyman", "extremes", "paper")


def parse_options(values: Mapping[str, object], response_length: int = 0) -> VerlOptions:
    """Options under ``arrol``; ConfigError names the first mistake and the next step.

    Without ``probe_tokens`` the first lengths choose the probe (way ``two_calls``); in the way ``engine`` it is 512, at
    most half of ``response_length``.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{NAME} = {values!r}: holds the options; set one of them, as in +{NAME}.rule={DEFAULT_RULE}")
    given = dict(values)
    way = given.pop("way", "two_calls")
    if way not in get_args(Way):
        raise ConfigError(f"{NAME}.way = {way!r}: unknown; choose one of {', '.join(get_args(Way))}")
    if given.get("rule") == "auto":
        raise ConfigError(
            f"{NAME}.rule = 'auto': needs weights of 1/survival, and verl computes advantages itself; use another rule"
        )
    chooses_probe = way == "two_calls" and "probe_tokens" not in given
    if response_length:
        given.setdefault("probe_tokens", min(LATEST_PROBE, max(response_length // 2, 1)))
    given.setdefault("correction", "plain")
    given.setdefault("barrier_timeout", BARRIER_TIMEOUT_S if way == "two_calls" else BARRIER_STEPS)
    quality = given.get("quality") or {}
    if isinstance(quality, Mapping):
        given["quality"] = {"features": ["logprobs"], **quality}
    try:
        options = VerlOptions(parse_host(given), cast(Way, way), chooses_probe)
        refuse_impossible(options.host, options.way)
        _refuse(options.host)
    except ConfigError as error:
        raise ConfigError(f"{NAME}.{error}") from None
    return options


def _refuse(host: HostConfig) -> None:
    """ConfigError for settings that work in other hosts and not inside verl."""
    rule, features = host.pruning, host.quality.features
    refuse(
        [
            ("correction", host.correction, host.correction != "plain",
             "verl computes advantages from uid and reward, without 1/survival; use plain, or train with arrol or TRL"),
            ("thinning", host.thinning, "thinning" in host.model_fields_set and host.thinning > 0,
             "verl computes advantages itself; leave it out"),
            ("algorithm", host.algorithm, host.algorithm != "grpo", "verl computes advantages itself; leave it out"),
            ("quality.features", list(features), features != ("logprobs",),
             "verl's servers return no hidden states; leave it out"),
            ("rule", rule.rule, rule.rule == "oracle", "verl has no place to decide after rewards; use another rule"),
            ("min_survivors", rule.min_survivors, rule.has_probes and rule.min_survivors < 2,
             "verl gives a lone survivor its raw reward as advantage; use at least 2"),
        ]
    )  # fmt: skip
