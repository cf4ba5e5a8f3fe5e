"""The two messages that vLLM carries for us: pruning arguments of a request, judgement of a completion. No vLLM here.

In: ``SamplingParams.extra_args`` (``vllm_xargs`` over HTTP), flat keys, each a string, a number or a list of them.
Out: ``stop_reason``, free text, one per completion.

>>> arguments = pruning_args(group="q7", size=4, probe_tokens=20, rule="uniform")
>>> arguments["arrol_group"], arguments["arrol_probe_tokens"]
('q7', [20])
>>> parse_args(arguments).rule.keep_ratio
0.5
>>> StopReport.parse("pruned:score=-1.25;quality=0.2;survival=0.5;probe=0;version=3;reason=draw").score
-1.25
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from pydantic import ConfigDict, Field, model_validator

from arrol.configs.base import StrictModel, shown, validate
from arrol.configs.method import RULE_FIELDS, AutoRule, NeverRule, NeymanRule, OracleRule, PruningConfig
from arrol.configs.suggestions import nearest_key
from arrol.errors import ConfigError
from arrol.types import PruningDecision, Reason, RolloutId

PREFIX = "arrol_"
"""Prefix of our keys among a request's arguments."""
PRUNED, KEPT, REFUSED = "pruned", "kept", "refused"
"""First words of our ``stop_reason``."""
BEFORE = " < "
"""Stands in a report between a probe's judgement and that of the probe before."""
MAX_NAME = 128
"""Characters of a key or a text."""
MAX_SIZE = 1024
"""Rollouts of a group in one wave."""
MAX_PROBES = 64
"""Entries of a list."""
MAX_NUMBER = 2**53
"""Largest whole number."""
DEFAULT_RULE = "uniform"
"""Reads no quality, so it prunes without a head too."""


class ControllerKey(NamedTuple):
    """See :attr:`PruningRequest.controller_key`."""

    run: str
    rule: str
    """As JSON."""
    seed: int | None
    """None for requests without a step, which share a controller whatever their seeds."""


class PruningRequest(StrictModel):
    """Pruning arguments of a request: each field is the key ``arrol_<field>``, and so is each field of the rule."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # servers pass numbers on

    group: str = Field(min_length=1, max_length=MAX_NAME)
    """Name of the group: rollouts that share it are siblings. Use a new one for every group."""
    size: int = Field(ge=1, le=MAX_SIZE)
    """Rollouts of the group, whether they come as one request with n, or as many."""
    rule: PruningConfig
    """Survival rule."""
    step: int | None = Field(None, ge=1, le=MAX_NUMBER)
    """Training step: keys the draws and ends the warm-up. Without it there is no warm-up."""
    index: int | None = Field(None, ge=0)
    """Place of the rollout in its group, which keys its draw; default: order of arrival."""
    batch_groups: int | None = Field(None, ge=1, le=2**16)
    """Groups of the step, named 0, 1, ...; needed by rules with scope 'batch'."""
    run: str = Field("", max_length=MAX_NAME)
    """Name of the training run or client: runs of other names share no groups and no statistics."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the draws."""
    first: int = Field(0, ge=0, le=2**16)
    """Rollouts of the group that were requested before this wave; ``size`` and ``index`` count within the wave."""
    later: bool = False
    """The batch has begun before this request: it does not announce the batch's other groups."""
    success_rate: float | None = Field(None, ge=0, le=1)
    """Success rate of the prompt so far, in [0, 1]."""
    report: bool = False
    """Report the judgement of kept rollouts too, and hold features for the trainer."""
    score_end: bool = False
    """Report the head's score at the last token fed, also for rollouts that ended by themselves."""

    @model_validator(mode="after")
    def _possible(self) -> PruningRequest:
        for name, value in self.rule:
            if any(isinstance(n, int) and n > MAX_NUMBER for n in (value if isinstance(value, tuple) else (value,))):
                raise ValueError(f"{name} = {shown(value)}: above {MAX_NUMBER}; give a smaller number")
        if isinstance(self.rule, OracleRule):
            raise ValueError("rule = 'oracle': needs outcomes, which no engine has; use another rule")
        if isinstance(self.rule, AutoRule):
            raise ValueError("rule = 'auto': needs outcomes, which no engine has; use another rule")
        if isinstance(self.rule, NeymanRule) and self.rule.scope == "batch" and self.batch_groups is None:
            raise ValueError(
                "scope = 'batch': a server sees no batch; use scope 'group', or give step and batch_groups"
            )
        numbers = range(self.batch_groups or 0)
        is_first = self.batch_groups is not None and not (self.first or self.later)
        if is_first and (self.step is None or self.number not in numbers):
            raise ValueError(
                f"group = {shown(self.group)}: with batch_groups, give step and a group in 0 ... {numbers[-1]}"
            )
        if self.index is not None and self.index >= self.size:
            raise ValueError(f"index = {self.index}: must be less than arrol_size = {self.size}")
        return self

    @property
    def number(self) -> int | None:
        """The group's name as its number in the step; None for other names."""
        return int(self.group) if re.fullmatch("0|[1-9][0-9]{0,17}", self.group) else None

    @cached_property
    def probe_tokens(self) -> tuple[int, ...]:
        """Completion lengths of the probes; empty where the rule has none."""
        return self.rule.probe_tokens if self.rule.has_probes else ()

    @property
    def is_watched(self) -> bool:
        """The request has probes or wants its end scored."""
        return bool(self.probe_tokens) or self.score_end

    @property
    def rollouts_drawn_together(self) -> int:
        """Rollouts that wait for each other at a probe; 1 where each is drawn at once, or none is."""
        rule = self.rule
        if not self.probe_tokens or rule.draw != "systematic" or isinstance(rule, NeverRule):
            return 1
        is_whole_batch = isinstance(rule, NeymanRule) and rule.scope == "batch"
        return self.size * (self.batch_groups or 1 if is_whole_batch else 1)

    @cached_property
    def controller_key(self) -> ControllerKey:
        """Requests with equal keys share a controller."""
        return ControllerKey(self.run, self.rule.model_dump_json(), None if self.step is None else self.seed)


REQUEST_FIELDS = frozenset(PruningRequest.model_fields) - {"rule"}
SWITCHES = {name for name, info in PruningRequest.model_fields.items() if info.annotation is bool} | {"observe"}
"""Fields that are true or false, of a request and of rule ``never``."""


def pruning_args(*, group: str | int, size: int, rule: str = DEFAULT_RULE, **fields: Any) -> dict[str, Any]:
    """Checked flat arguments of a request: ``extra_args`` in Python, ``vllm_xargs`` over HTTP.

    ``fields`` are those of :class:`PruningRequest` and of the rule (``keep_ratio``, ``probe_tokens``, ``draw``, ...).
    ConfigError names the first wrong one.
    """
    if isinstance(fields.get("probe_tokens"), int):
        fields["probe_tokens"] = [fields["probe_tokens"]]
    values = {"group": group, "size": size, "rule": rule, **fields}
    arguments = {PREFIX + name: _flat(value) for name, value in values.items() if value is not None}
    parse_args(arguments)
    return arguments


def _flat(value: Any) -> Any:
    """As ``vllm_xargs`` carries it: no truth values, so 0 and 1 in their place."""
    if isinstance(value, bool):
        return int(value)
    return list(value) if isinstance(value, (tuple, range, set)) else value


def parse_args(extra_args: Mapping[str, Any] | None) -> PruningRequest | None:
    """None without a key of ours; ConfigError naming the first wrong one."""
    ours = {key.removeprefix(PREFIX): value for key, value in (extra_args or {}).items() if key.startswith(PREFIX)}
    if not ours:
        return None
    ours |= {
        key: bool(ours[key])
        for key in ours.keys() & SWITCHES
        if type(ours[key]) in (int, float) and ours[key] in (0, 1)
    }
    for key, value in ours.items():
        _require_short(PREFIX + key, value)
    if isinstance(ours.get("probe_tokens"), (int, float)):
        ours["probe_tokens"] = [ours["probe_tokens"]]
    request = {key: value for key, value in ours.items() if key in REQUEST_FIELDS}
    rule = {"rule": DEFAULT_RULE, **{key: value for key, value in ours.items() if key not in REQUEST_FIELDS}}
    for key in rule.keys() - RULE_FIELDS:
        near = nearest_key(key, REQUEST_FIELDS | RULE_FIELDS)
        raise ConfigError(
            f"{PREFIX}{key} = {shown(rule[key])}: unknown key; the nearest known one is {PREFIX + near!r}"
        )
    try:
        return validate(PruningRequest, {**request, "rule": rule})
    except ConfigError as error:
        message = str(error).removeprefix("rule.").removeprefix("pruning.").replace("rule.rule", f"{PREFIX}rule")
        raise ConfigError(PREFIX + message) from None


def require_admissible(extra_args: Mapping[str, Any] | None, n: int) -> None:
    """ConfigError for arguments that no group could have; ``n`` is the number of completions of the request."""
    pruning = parse_args(extra_args)
    if pruning is None:
        return
    if n > pruning.size:
        raise ConfigError(f"n = {n}: above arrol_size = {pruning.size}; set arrol_size to the rollouts of the group")
    if n > 1 and pruning.index is not None:
        raise ConfigError(f"arrol_index = {pruning.index}: one index for n = {n} completions; leave it out, or set n=1")


def _require_short(key: str, value: object) -> None:
    """ConfigError for anything too long to be looked at: one client must not slow the others."""
    if len(key) > MAX_NAME:
        raise ConfigError(f"{shown(key)}: key of {len(key)} characters; a key of ours is at most {MAX_NAME} long")
    leaves = value if isinstance(value, (list, tuple)) else (value,)
    if len(leaves) > MAX_PROBES:
        raise ConfigError(f"{key} = {shown(leaves[:MAX_PROBES])}: {len(leaves)} values; give at most {MAX_PROBES}")
    for leaf in leaves:
        if isinstance(leaf, (Mapping, bytes, list, tuple, set)):
            raise ConfigError(f"{key} = {shown(leaf)}: nested; give text, a number, or a list of them")
        if isinstance(leaf, str) and len(leaf) > MAX_NAME:
            raise ConfigError(f"{key} = {shown(leaf)}: {len(leaf)} characters; give at most {MAX_NAME}")
        if isinstance(leaf, int) and leaf.bit_length() > 63:
            raise ConfigError(f"{key} = {shown(leaf)}: needs more than 63 bits; give a smaller number")


@dataclass(frozen=True)
class StopReport:
    """Judgement of a completion, as text in its ``stop_reason``."""

    keep: bool
    score: float
    """Logit of the head, or the mean log-probability without a head."""
    quality: float
    survival: float
    probe: int
    """-1 for a completion that reached no probe: only ``end_score`` is set."""
    version: int
    reason: str
    end_score: float = math.nan
    """Logit of the head at the last token fed; NaN unless ``score_end`` was set."""
    pool: int | None = None
    """See :class:`arrol.types.PruningDecision`."""
    previous: StopReport | None = None
    """Of the probe before."""

    @classmethod
    def of(cls, decision: PruningDecision | None, end_score: float = math.nan) -> StopReport:
        """From a decision, or None for a completion that reached no probe."""
        if decision is None:
            return cls(True, math.nan, math.nan, 1.0, -1, 0, "", end_score)
        return cls(
            decision.keep, decision.score, decision.quality, decision.survival, decision.probe, decision.version,
            decision.reason.value, end_score, decision.pool, cls.of(decision.previous) if decision.previous else None,
        )  # fmt: skip

    def __str__(self) -> str:
        end = "" if math.isnan(self.end_score) else f";end_score={self.end_score:.9g}"
        end += "" if self.pool is None else f";pool={self.pool}"
        end += "" if self.previous is None else f"{BEFORE}{self.previous}"
        return (
            f"{KEPT if self.keep else PRUNED}:score={self.score:.9g};quality={self.quality:.9g};"
            f"survival={self.survival:.9g};probe={self.probe};version={self.version};reason={self.reason}{end}"
        )

    @classmethod
    def parse(cls, stop_reason: object) -> StopReport | None:
        """None for any other text."""
        texts, report = str(stop_reason).split(BEFORE), None
        if len(texts) > MAX_PROBES:
            return None
        for text in reversed(texts):  # the first probe first
            report = cls._of_probe(text, report)
            if report is None:
                break
        return report

    @classmethod
    def _of_probe(cls, text: str, previous: StopReport | None) -> StopReport | None:
        word, _, rest = text.partition(":")
        if word not in (PRUNED, KEPT):
            return None
        try:
            field = dict(part.split("=", 1) for part in rest.split(";"))
            return cls(
                word == KEPT, float(field["score"]), float(field["quality"]), float(field["survival"]),
                int(field["probe"]), int(field["version"]), field["reason"] and Reason(field["reason"]).value,
                float(field.get("end_score", "nan")), int(field["pool"]) if "pool" in field else None,
                previous,
            )  # fmt: skip
        except (KeyError, ValueError):
            return None

    def decision(self, rollout_id: RolloutId) -> PruningDecision | None:
        """Inverse of :meth:`of`."""
        if self.probe < 0:
            return None
        return PruningDecision(
            rollout_id, self.probe, self.keep, self.survival, Reason(self.reason), self.score, self.quality,
            self.version, self.previous.decision(rollout_id) if self.previous else None, self.pool,
        )  # fmt: skip
