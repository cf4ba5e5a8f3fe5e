"""How a rollout is cut: verl's server client, wrapped for one rollout. No verl here.

verl's own agent loop calls ``generate`` once; these take the call and do more with it, so prompts, images, masks and
metrics stay verl's business.

* :class:`TwoCalls` (way A): ask for the tokens up to each probe, ask the service, go on with the same request id (the
  same server, which still has the prefix in its cache). Needs nothing but log-probabilities. The first calls of others
  may stand between the two, and without a prefix cache the survivor is prefilled again.
* :class:`InsideEngine` (way B): one call; vLLM's scheduler, ours, stops the request while it runs. verl hands back no
  stop reason, so a stop is inferred: shorter than asked for, and not ended by a stop token.

Deviations: a rollout that raises :class:`Stopped` writes no trajectory; its agent loop turns that into an empty list.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from arrol.errors import ModelError

CONTINUED_PRIORITY = -1
"""vLLM serves lower numbers first: who has begun goes before who has not (with scheduling_policy=priority)."""

Ask = Callable[[int, list[float]], Awaitable[bool]]
"""Probe and the three statistics of log-probabilities in, whether to go on out."""


class Stopped(Exception):
    """The rollout was stopped."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__(f"stopped after {num_tokens} tokens")
        self.num_tokens = num_tokens


class Output(Protocol):
    """The part of verl's ``TokenOutput`` that is used here."""

    token_ids: list[int]
    log_probs: list[float] | None
    stop_reason: str | None
    num_preempted: int | None
    extra_fields: dict[str, Any]


class Server(Protocol):
    """The part of verl's ``LLMServerClient`` that is used here."""

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **others: Any
    ) -> Any: ...


@dataclass(frozen=True)
class Limits:
    """Where a rollout ends by itself."""

    response_length: int
    stop_token_ids: frozenset[int]

    def has_ended(self, token_ids: Sequence[int], asked: int) -> bool:
        """Whether these are all the tokens there will be, after ``asked`` more were asked for."""
        return len(token_ids) < asked or (bool(token_ids) and token_ids[-1] in self.stop_token_ids)


class TwoCalls:
    """Way A, for one rollout."""

    def __init__(
        self, server: Server, *, probe_tokens: Sequence[int], limits: Limits, ask: Ask, prioritized: bool
    ) -> None:
        self._server, self._probe_tokens, self._limits, self._ask = server, probe_tokens, limits, ask
        self._prioritized = prioritized
        self.is_awaited = True
        """Siblings may still wait for it at a later probe."""

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **others: Any
    ) -> Any:
        """Like verl's client; raises :class:`Stopped` where the service says so."""
        whole: Any = None
        for probe, length in enumerate([*self._probe_tokens, self._limits.response_length]):
            written = [] if whole is None else whole.token_ids
            asked = length - len(written)
            if whole is not None and self._prioritized:
                others["priority"] = CONTINUED_PRIORITY
            part = await self._server.generate(
                request_id,
                prompt_ids=list(prompt_ids) + written,
                sampling_params={**sampling_params, "max_tokens": asked},
                **others,
            )
            whole = part if whole is None else joined(whole, part)
            if self._limits.has_ended(part.token_ids, asked) or probe == len(self._probe_tokens):
                return whole
            if not await self._ask(probe, statistics(whole.log_probs)):
                raise Stopped(len(whole.token_ids))
            self.is_awaited = probe + 1 < len(self._probe_tokens)
        raise AssertionError("the last length is the limit")


class InsideEngine:
    """Way B, for one rollout; ``arguments`` are those of :func:`arrol.engines.vllm.request.pruning_args`."""

    is_awaited = False
    """The barrier is vLLM's."""

    def __init__(self, server: Server, *, arguments: Mapping[str, Any], limits: Limits, sticky_id: str) -> None:
        self._server, self._arguments, self._limits, self._sticky_id = server, arguments, limits, sticky_id

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **others: Any
    ) -> Any:
        """Like verl's client; raises :class:`Stopped` when the engine stopped the request.

        Siblings share one request id, by which verl finds the server: one scheduler must see the whole group.
        """
        asked = self._limits.response_length
        whole = await self._server.generate(
            self._sticky_id,
            prompt_ids=prompt_ids,
            sampling_params={**sampling_params, "max_tokens": asked, "extra_args": dict(self._arguments)},
            **others,
        )
        if not whole.token_ids:
            raise ModelError(
                "engine: the request came back empty, so vLLM refused it; its log names the field and the remedy"
            )
        if len(whole.token_ids) < asked and whole.token_ids[-1] not in self._limits.stop_token_ids:
            raise Stopped(len(whole.token_ids))
        return whole


def statistics(logprobs: Sequence[float] | None) -> list[float]:
    """Sum, minimum and mean, in the order of :data:`arrol.quality.features.LOGPROB_STATISTICS`; NaN without any."""
    if not logprobs:
        return [float("nan")] * 3
    values_T = np.asarray(logprobs, float)
    return [float(values_T.sum()), float(values_T.min()), float(values_T.mean())]


def joined(first: Output, second: Output) -> Output:
    """One output of two consecutive calls; what only the last call knows (why it ended) comes from it."""
    preempted = [n for n in (first.num_preempted, second.num_preempted) if n is not None]
    second.token_ids = list(first.token_ids) + list(second.token_ids)
    if first.log_probs is not None and second.log_probs is not None:
        second.log_probs = list(first.log_probs) + list(second.log_probs)
    second.num_preempted = sum(preempted) if preempted else None
    begun = first.extra_fields.get("min_global_steps")
    if begun is not None:
        second.extra_fields["min_global_steps"] = begun
    return second
