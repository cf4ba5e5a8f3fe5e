"""What a request says about pruning, and what a completion says about its judgement. No vLLM here.

vLLM carries two things for us. On the way in ``SamplingParams.extra_args`` (``vllm_xargs`` over HTTP): flat keys, each
a string, a number or a list of them. On the way out ``stop_reason``: free text, one per completion. Both ends of both
are in this file.

>>> arguments = pruning_args(group="q7", size=4, probe_tokens=20, rule="uniform")
>>> arguments["arrol_group"], arguments["arrol_probe_tokens"]
('q7', [20])
>>> parse_args(arguments).rule.keep_ratio
0.5
>>> StopReport.parse("pruned:score=-1.25;quality=0.2;survival=0.5;probe=0;version=3;reason=draw").score
-1.25
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import Field, model_validator

from arrol.configs.base import StrictModel, validate
from arrol.configs.method import RULE_FIELDS, NeverRule, NeymanRule, OracleRule, PruningConfig
from arrol.errors import ConfigError
from arrol.types import PruningDecision, Reason, RolloutId

PREFIX = "arrol_"
"""Of every key of ours among a request's arguments."""
PRUNED, KEPT, REFUSED = "pruned", "kept", "refused"
"""First words of a ``stop_reason`` of ours."""
DEFAULT_RULE = "uniform"
"""Needs no prior knowledge; name another as soon as a head is loaded."""


class PruningRequest(StrictModel):
    """Everything a request may say; each field is the key ``arrol_<field>``, and so is each field of its rule."""

    group: str = Field(min_length=1)
    """Name of the group: rollouts that share it are siblings. Use a new one for every group."""
    size: int = Field(ge=1)
    """Rollouts of the group, whether they come as one request with n, or as many."""
    rule: PruningConfig
    """Who keeps running."""
    step: int | None = Field(None, ge=1)
    """Training step, which keys the draws and ends the warm-up; without it nothing is ever warm-up."""
    index: int | None = Field(None, ge=0)
    """Place of the rollout in its group, which keys its draw; without it, order of arrival."""
    batch_groups: int | None = Field(None, ge=1, le=2**16)
    """Groups of the step, named 0, 1, ...; needed by rules that look at the whole batch."""
    seed: int = Field(0, ge=0)
    """Of the draws."""
    first: int = Field(0, ge=0, le=2**20)
    """How many rollouts of the group were asked for before this wave: ``size`` and ``index`` are the wave's own."""
    later: bool = False
    """Asked for when its batch had begun: nobody is announced with it."""
    success_rate: float | None = Field(None, ge=0, le=1)
    """What is known of the prompt, in [0, 1]."""
    report: bool = False
    """Kept rollouts say in their stop_reason how they were judged, and their features are held for the trainer."""

    score_end: bool = False
    """The head's score at the last token fed comes back in the stop_reason, whatever ended the rollout."""

    @model_validator(mode="after")
    def _possible(self) -> PruningRequest:
        if isinstance(self.rule, OracleRule):
            raise ValueError("rule = 'oracle': needs outcomes, which no engine has; use another rule")
        if isinstance(self.rule, NeymanRule) and self.rule.scope == "batch" and self.batch_groups is None:
            raise ValueError(
                "scope = 'batch': a server sees no batch; use scope 'group', or give step and batch_groups"
            )
        announced = not (self.first or self.later)
        if (
            self.batch_groups is not None
            and announced
            and not (self.step is not None and self.number in range(self.batch_groups))
        ):
            raise ValueError(
                f"group = {self.group!r}: with batch_groups, give step and let group be 0 ... {self.batch_groups - 1}"
            )
        if self.index is not None and self.index >= self.size:
            raise ValueError(f"index = {self.index}: below size = {self.size}, please")
        return self

    @property
    def number(self) -> int | None:
        """Place of the group in its step, where its name is one."""
        return int(self.group) if re.fullmatch("0|[1-9][0-9]{0,17}", self.group) else None

    @cached_property
    def probe_tokens(self) -> tuple[int, ...]:
        """Where the rule looks; empty when it neither stops nor observes anybody."""
        idle = isinstance(self.rule, NeverRule) and not self.rule.observe
        return () if idle else self.rule.probe_tokens

    @property
    def looks(self) -> bool:
        """Whether there is anything to be done about this request."""
        return bool(self.probe_tokens) or self.score_end

    @property
    def host_key(self) -> tuple[str, int, bool]:
        """Requests of equal key are judged by one controller."""
        return self.rule.model_dump_json(), self.seed, self.step is None


OWN_FIELDS = frozenset(PruningRequest.model_fields) - {"rule"}


def pruning_args(*, group: str | int, size: int, rule: str = DEFAULT_RULE, **fields: Any) -> dict[str, Any]:
    """The flat arguments of a request, checked: ``extra_args`` in Python, ``vllm_xargs`` over HTTP.

    ``fields`` are those of :class:`PruningRequest` and of the rule (``keep_ratio``, ``probe_tokens``, ``draw``, ...).
    ConfigError names the first that is wrong.
    """
    if isinstance(fields.get("probe_tokens"), int):
        fields["probe_tokens"] = [fields["probe_tokens"]]
    values = {"group": group, "size": size, "rule": rule, **fields}
    arguments = {
        PREFIX + name: int(value)
        if isinstance(value, bool)
        else list(value)
        if isinstance(value, (tuple, range, set))
        else value
        for name, value in values.items()
        if value is not None
    }
    parse_args(arguments)
    return arguments


def parse_args(extra_args: Mapping[str, Any] | None) -> PruningRequest | None:
    """None when no key is ours; ConfigError naming the first that is wrong."""
    ours = {key.removeprefix(PREFIX): value for key, value in (extra_args or {}).items() if key.startswith(PREFIX)}
    if not ours:
        return None
    if isinstance(ours.get("probe_tokens"), (int, float)):
        ours["probe_tokens"] = [ours["probe_tokens"]]
    rule = {key: value for key, value in ours.items() if key not in OWN_FIELDS}
    rule.setdefault("rule", DEFAULT_RULE)
    for key in rule.keys() - RULE_FIELDS:
        near = difflib.get_close_matches(key, sorted(OWN_FIELDS | RULE_FIELDS), n=1, cutoff=0.0)[0]
        raise ConfigError(f"{PREFIX}{key} = {rule[key]!r}: unknown key; the nearest known one is {PREFIX + near!r}")
    own = {key: value for key, value in ours.items() if key in OWN_FIELDS}
    try:
        return validate(PruningRequest, {**own, "rule": rule})
    except ConfigError as error:
        raise ConfigError(f"{PREFIX}{str(error).removeprefix('rule.').removeprefix('pruning.')}") from None


@dataclass(frozen=True)
class StopReport:
    """A judgement as it stands in ``stop_reason``."""

    keep: bool
    score: float
    """Logit of the head, or the mean log-probability where there is no head."""
    quality: float
    survival: float
    probe: int
    version: int
    reason: str
    end_score: float = math.nan
    """Logit of the head at the last token fed, where the request asked for it."""

    @classmethod
    def of(cls, decision: PruningDecision | None, end_score: float = math.nan) -> StopReport:
        """Of one that was never judged, only ``end_score`` says anything; its probe is -1."""
        if decision is None:
            return cls(True, math.nan, math.nan, 1.0, -1, 0, "", end_score)
        return cls(
            decision.keep, decision.score, decision.quality, decision.survival, decision.probe, decision.version,
            decision.reason.value, end_score,
        )  # fmt: skip

    def __str__(self) -> str:
        end = "" if math.isnan(self.end_score) else f";end_score={self.end_score:.9g}"
        return (
            f"{KEPT if self.keep else PRUNED}:score={self.score:.9g};quality={self.quality:.9g};"
            f"survival={self.survival:.9g};probe={self.probe};version={self.version};reason={self.reason}{end}"
        )

    @classmethod
    def parse(cls, stop_reason: object) -> StopReport | None:
        """None for anything that is not ours."""
        word, _, rest = str(stop_reason).partition(":")
        if word not in (PRUNED, KEPT):
            return None
        try:
            field = dict(part.split("=", 1) for part in rest.split(";"))
            return cls(
                word == KEPT, float(field["score"]), float(field["quality"]), float(field["survival"]),
                int(field["probe"]), int(field["version"]), field["reason"] and Reason(field["reason"]).value,
                float(field.get("end_score", "nan")),
            )  # fmt: skip
        except (KeyError, ValueError):
            return None

    def decision(self, rollout_id: RolloutId) -> PruningDecision | None:
        """Inverse of :meth:`of`; None for one that was never judged."""
        if self.probe < 0:
            return None
        return PruningDecision(
            rollout_id, self.probe, self.keep, self.survival, Reason(self.reason), self.score, self.quality,
            self.version,
        )  # fmt: skip
