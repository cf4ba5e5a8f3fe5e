"""The service as driver and workers see it: its name, its handle, and what it gives each prompt. No verl, no Ray."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol, TypedDict

ACTOR_NAME = "arrol_head"


class RemoteMethod(Protocol):
    """A method of a Ray actor."""

    def remote(self, *arguments: object, **named: object) -> Awaitable[object]: ...


class RemoteService(Protocol):
    """The actor's handle: :class:`PruningService` as driver and workers see it."""

    begin: RemoteMethod
    probed: RemoteMethod
    ended: RemoteMethod
    outcome: RemoteMethod
    pruned: RemoteMethod
    failed: RemoteMethod
    settle: RemoteMethod
    has_selection: RemoteMethod
    kept: RemoteMethod
    wrote: RemoteMethod
    sampled: RemoteMethod
    evaluating: RemoteMethod
    evaluated: RemoteMethod
    recorded: RemoteMethod
    log_end: RemoteMethod
    nothing_left: RemoteMethod
    save: RemoteMethod
    load: RemoteMethod


class Ticket(TypedDict):
    """What each rollout of a prompt carries to its worker; verl stores it with each trajectory."""

    step: int
    group: int
    """-1 where the prompt is skipped."""
    size: int
    success_rate: float | None
    seed: int
    run: str
    """Tells this trainer's groups from those of others on the same vLLM server."""
    stop_token_ids: list[int]
    probe_tokens: list[int]
    """None while the first lengths are measured."""
    keeps_texts: bool
    """Workers send what their rollouts wrote, for the record."""
