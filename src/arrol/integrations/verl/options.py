"""What a user may write under ``arrol`` in a verl command: the flat options of every host, and two of verl's own.

>>> options = parse_options({"keep_ratio": 0.5, "probe_tokens": 16, "rule": "uniform"})
>>> options.way, options.host.correction, options.host.pruning.barrier_timeout
('two_calls', 'plain', 600.0)

Deviations from the other hosts: (1) the correction is ``plain``, because verl computes the advantages of the survivors
itself; (2) the head reads log-probabilities only, because no hidden state leaves verl's servers; (3) the deadline of
the barrier is in seconds, since nobody counts decode steps here; (4) a draw must leave the same number of survivors in
every group, since verl fills a batch up with synthetic rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from arrol.configs.host import HostConfig, parse_host
from arrol.configs.method import NeverRule, OracleRule
from arrol.errors import ConfigError
from arrol.integrations.allocation import acts
from arrol.integrations.verl.rules import refuse_impossible

Way = Literal["two_calls", "engine"]
WAYS: tuple[Way, ...] = ("two_calls", "engine")
BARRIER_TIMEOUT_S = 600
"""Default deadline: long, because a draw without its siblings leaves a number of survivors that nobody knows before."""
BARRIER_STEPS = 64
"""Default deadline inside vLLM, in decode steps."""
PATH = "arrol"
"""Top-level key of the options in verl's config."""


@dataclass(frozen=True)
class VerlOptions:
    """Checked options."""

    host: HostConfig
    way: Way = "two_calls"
    """two_calls: probe, decide, go on, with any server; engine: inside vLLM, in one call."""

    @property
    def looks(self) -> bool:
        """Somebody is looked at before it ends."""
        return not isinstance(self.host.pruning, NeverRule) or self.host.pruning.observe

    @property
    def allocates(self) -> bool:
        """An allocation rule is at work."""
        return acts(self.host.allocation)

    @property
    def acts(self) -> bool:
        """False when there is nothing to do: verl then runs as if arrol were absent."""
        return self.looks or self.allocates

    @property
    def learns(self) -> bool:
        """Whether the rule reads what the head says."""
        return self.host.pruning.rule in ("balanced", "neyman", "extremes", "paper")


def parse_options(values: Mapping[str, Any]) -> VerlOptions:
    """Options under ``arrol``; ConfigError names the first mistake and the next step."""
    given = dict(values)
    way = given.pop("way", "two_calls")
    if way not in WAYS:
        raise ConfigError(f"{PATH}.way = {way!r}: unknown; choose one of {', '.join(WAYS)}")
    given.setdefault("correction", "plain")
    given.setdefault("barrier_timeout", BARRIER_TIMEOUT_S if way == "two_calls" else BARRIER_STEPS)
    quality = given.get("quality") or {}
    if isinstance(quality, Mapping):
        given["quality"] = {"features": ["logprobs"], **quality}
    try:
        options = VerlOptions(parse_host(given), cast(Way, way))
        refuse_impossible(options.host, way)
    except ConfigError as error:
        raise ConfigError(f"{PATH}.{error}") from None
    _refuse(options)
    return options


def _refuse(options: VerlOptions) -> None:
    """What is sound elsewhere and not inside verl."""
    host, rule = options.host, options.host.pruning
    if host.correction != "plain":
        raise ConfigError(
            f"{PATH}.correction = {host.correction!r}: verl computes advantages from uid and reward alone, so "
            "1/survival cannot reach them; use plain, or train with arrol or TRL"
        )
    if host.algorithm != "grpo":
        raise ConfigError(
            f"{PATH}.algorithm = {host.algorithm!r}: verl computes advantages itself; leave it out, or train with "
            "arrol or TRL"
        )
    if host.quality.features != ("logprobs",):
        raise ConfigError(
            f"{PATH}.quality.features = {list(host.quality.features)}: no hidden state leaves verl's servers; "
            "leave it out, or write [logprobs]"
        )
    if isinstance(rule, OracleRule):
        raise ConfigError(f"{PATH}.rule = 'oracle': verl has no place to decide after rewards; use another rule")
    if rule.rule == "paper" or rule.draw == "bernoulli" or getattr(rule, "scope", "group") != "group":
        raise ConfigError(
            f"{PATH}.rule = {rule.rule!r} with draw {rule.draw!r}, scope {getattr(rule, 'scope', 'group')!r}: the "
            "number of survivors would vary and verl would train on padding; use draw systematic and scope group "
            "(rules uniform, confidence, balanced, neyman)"
        )
    if options.looks and rule.min_survivors < 2:
        raise ConfigError(
            f"{PATH}.min_survivors = {rule.min_survivors}: verl gives a lone survivor its raw reward as advantage; "
            "use 2 or more"
        )
