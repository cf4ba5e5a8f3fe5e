"""Reward functions see survivors only, and what they say reaches the head."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, overload

from arrol.errors import ConfigError, DataError
from arrol.integrations.trl.batch import Ticket

TICKETS = "arrol_rollout"
"""Column that a pruned rollout function adds to each row."""

RewardFunction = Callable[..., Any]


@overload
def prune_rewards(reward_funcs: RewardFunction) -> RewardFunction: ...
@overload
def prune_rewards(reward_funcs: Sequence[RewardFunction]) -> list[RewardFunction]: ...
def prune_rewards(reward_funcs: Any) -> Any:
    """Wrap one reward function, or each of a list: called with survivors only, None for the others.

    Sync or async. A user's own None keeps its meaning. ConfigError for reward models, which cannot leave a row out.
    """
    if isinstance(reward_funcs, Sequence) and not isinstance(reward_funcs, str):
        return [prune_rewards(function) for function in reward_funcs]
    if isinstance(reward_funcs, str) or hasattr(reward_funcs, "forward") or not callable(reward_funcs):
        raise ConfigError(
            f"reward_funcs = {reward_funcs!r}: a reward model cannot leave stopped rollouts out; "
            "wrap it in a function that returns a list of floats, or set rule = 'never'"
        )
    return _wrap(reward_funcs)


def _wrap(function: RewardFunction) -> RewardFunction:
    name = reward_name(function)

    def ask(columns: dict[str, Any]) -> tuple[list[Ticket] | None, dict[str, Any]]:
        tickets = columns.pop(TICKETS, None)
        if not tickets or tickets[0] is None:  # evaluation, or a rollout function that prunes nothing
            return None, columns
        return tickets, _survivors(tickets, columns)

    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004

        async def wrapped_async(**columns: Any) -> list[float | None]:
            tickets, asked = ask(columns)
            if tickets is None:
                return await function(**asked)
            return _spread(name, tickets, await function(**asked) if asked["completions"] else [])

        wrapped: RewardFunction = wrapped_async
    else:

        def wrapped_sync(**columns: Any) -> list[float | None]:
            tickets, asked = ask(columns)
            if tickets is None:
                return function(**asked)
            return _spread(name, tickets, function(**asked) if asked["completions"] else [])

        wrapped = wrapped_sync
    functools.update_wrapper(wrapped, function)
    wrapped.__name__ = name
    return wrapped


def reward_name(function: RewardFunction) -> str:
    """As TRL will call it."""
    return getattr(function, "__name__", type(function).__name__)


def _survivors(tickets: Sequence[Ticket], columns: dict[str, Any]) -> dict[str, Any]:
    """Every column with one value per row, without the rows of stopped rollouts."""
    live = [i for i, ticket in enumerate(tickets) if ticket.survived]
    return {
        key: [value[i] for i in live] if isinstance(value, list) and len(value) == len(tickets) else value
        for key, value in columns.items()
    }


def _spread(name: str, tickets: Sequence[Ticket], values: Sequence[float | None]) -> list[float | None]:
    """One value per row again, and a copy for the head."""
    live = [i for i, ticket in enumerate(tickets) if ticket.survived]
    values = list(values)
    if len(values) != len(live):
        raise DataError(
            f"reward_funcs = {name!r}: returned {len(values)} rewards for {len(live)} survivors; return one each"
        )
    rows: list[float | None] = [None] * len(tickets)
    for i, value in zip(live, values, strict=True):
        rows[i] = None if value is None else float(value)
    tickets[0].batch.rewards[name] = rows
    return rows
