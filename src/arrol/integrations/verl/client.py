"""How one rollout is pruned: verl's server client, wrapped for it. Without verl or Ray.

verl's agent loop calls ``generate`` once per rollout; these take that call, so prompts, images, masks and metrics stay
verl's business. A pruned rollout raises :class:`Pruned`, which the agent loop turns into an empty list of outputs.

* :class:`TwoCalls` (way ``two_calls``): generate up to each probe, ask the service, and continue with the same request
  id: the same server, which still has the prefix in its cache. Needs log-probabilities only.
* :class:`InsideEngine` (way ``engine``): one call; arrol's scheduler stops the request inside vLLM. verl drops vLLM's
  stop reason, so a stop is inferred: fewer tokens than asked for, the last of them no stop token.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from arrol.errors import ModelError
from arrol.quality.features import logprob_statistics

CONTINUED_PRIORITY = -1
"""vLLM serves lower numbers first: second calls go before first ones (with scheduling_policy=priority)."""

CONTINUED_SEEDS = 2**20
"""Seeds of later calls begin here; verl's own are the seed of its config plus the number of the server."""

Ask = Callable[[int, list[float]], Awaitable[bool]]
"""Probe and log-probability statistics in, whether the rollout continues out."""


class Pruned(Exception):
    """The rollout was stopped."""

    def __init__(self, prompt_ids: Sequence[int], output: TokenOutput) -> None:
        super().__init__(f"stopped after {len(output.token_ids)} tokens")
        self.prompt_ids, self.output = prompt_ids, output

    @property
    def num_tokens(self) -> int:
        return len(self.output.token_ids)


class TokenOutput(Protocol):
    """What is used of verl's class of this name."""

    token_ids: list[int]
    log_probs: list[float] | None
    num_preempted: int | None
    extra_fields: dict[str, object]


class Server(Protocol):
    """What is used of verl's ``LLMServerClient``."""

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, object], **others: object
    ) -> TokenOutput: ...


@dataclass(frozen=True)
class Limits:
    """Where a rollout ends by itself."""

    response_length: int
    stop_token_ids: frozenset[int]

    def has_ended(self, token_ids: Sequence[int], asked: int) -> bool:
        """Whether a call that asked for ``asked`` tokens and returned these was the last."""
        return len(token_ids) < asked or self.is_stopped(token_ids)

    def is_stopped(self, token_ids: Sequence[int]) -> bool:
        """Whether the last token is a stop token."""
        return bool(token_ids) and token_ids[-1] in self.stop_token_ids

    def is_truncated(self, token_ids: Sequence[int]) -> bool:
        """Whether the length limit ended it."""
        return len(token_ids) >= self.response_length and not self.is_stopped(token_ids)


class TwoCalls:
    """Way ``two_calls``, for one rollout."""

    def __init__(
        self,
        server: Server,
        *,
        probe_tokens: Sequence[int],
        limits: Limits,
        ask: Ask,
        prioritized: bool,
        seed: int | None = None,
    ) -> None:
        """``seed``: with it verl seeds each call anew; a later call must not repeat the random stream of the first."""
        self._server, self._probe_tokens, self._limits, self._ask = server, probe_tokens, limits, ask
        self._prioritized, self._seed = prioritized, seed
        self.is_awaited = True
        """Siblings may still wait for it at a later probe."""

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, object], **others: object
    ) -> TokenOutput:
        """Like verl's client; raises :class:`Pruned` where the service decides so."""
        whole: TokenOutput | None = None
        for probe, length in enumerate([*self._probe_tokens, self._limits.response_length]):
            written = [] if whole is None else whole.token_ids
            asked = length - len(written)
            if whole is not None and self._prioritized:
                others["priority"] = CONTINUED_PRIORITY
            params = {**sampling_params, "max_tokens": asked}
            if whole is not None and self._seed is not None:
                params["seed"] = CONTINUED_SEEDS + self._seed + len(written)
            part = await self._server.generate(
                request_id, prompt_ids=list(prompt_ids) + written, sampling_params=params, **others
            )
            whole = part if whole is None else joined(whole, part)
            if self._limits.has_ended(part.token_ids, asked) or probe == len(self._probe_tokens):
                return whole
            if not await self._ask(probe, logprob_statistics(np.array([whole.log_probs or []]))[0].tolist()):
                raise Pruned(prompt_ids, whole)
            self.is_awaited = probe + 1 < len(self._probe_tokens)
        raise AssertionError("the last length is the limit")


class InsideEngine:
    """Way ``engine``, for one rollout; ``arguments`` are those of :func:`arrol.engines.vllm.request.pruning_args`."""

    is_awaited = False
    """The barrier is vLLM's."""

    def __init__(self, server: Server, *, arguments: Mapping[str, object], limits: Limits, sticky_id: str) -> None:
        self._server, self._arguments, self._limits, self._sticky_id = server, arguments, limits, sticky_id

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, object], **others: object
    ) -> TokenOutput:
        """Like verl's client; raises :class:`Pruned` when the engine stopped the request.

        Siblings share one request id, by which verl chooses the server: one scheduler must see the whole group.
        """
        asked = self._limits.response_length
        params = {**sampling_params, "max_tokens": asked, "extra_args": dict(self._arguments)}
        whole = await self._server.generate(self._sticky_id, prompt_ids=prompt_ids, sampling_params=params, **others)
        if not whole.token_ids:
            raise ModelError("engine: returned no token, so vLLM refused the request; its log names the field to set")
        if len(whole.token_ids) < asked and not self._limits.is_stopped(whole.token_ids):
            raise Pruned(prompt_ids, whole)
        return whole


def joined(first: TokenOutput, second: TokenOutput) -> TokenOutput:
    """``second`` with the tokens of two consecutive calls; other fields are those of the last call."""
    preempted = [n for n in (first.num_preempted, second.num_preempted) if n is not None]
    second.token_ids = list(first.token_ids) + list(second.token_ids)
    if first.log_probs is not None and second.log_probs is not None:
        second.log_probs = list(first.log_probs) + list(second.log_probs)
    second.num_preempted = sum(preempted) if preempted else None
    started = first.extra_fields.get("min_global_steps")
    if started is not None:
        second.extra_fields["min_global_steps"] = started
    return second
