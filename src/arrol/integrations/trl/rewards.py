"""Reward functions that are called with survivors only, and whose values reach the quality head."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, overload

from arrol.errors import ConfigError, DataError
from arrol.integrations.trl.batch import RowTag

TAG_COLUMN = "arrol_rollout"
"""Extra column of a pruned rollout function: one :class:`RowTag` per row."""

Rewards = list[float | None]
RewardFunction = Callable[..., Any]
"""TRL's: columns as keywords in, :data:`Rewards` or an awaitable of them out."""


@overload
def prune_rewards(reward_funcs: RewardFunction) -> RewardFunction: ...
@overload
def prune_rewards(reward_funcs: Sequence[RewardFunction]) -> list[RewardFunction]: ...
def prune_rewards(
    reward_funcs: RewardFunction | Sequence[RewardFunction],
) -> RewardFunction | list[RewardFunction]:
    """Wrap reward functions, sync or async: called with survivors only, stopped rows get None.

    A None of the function itself keeps its meaning. ConfigError for reward models, which cannot leave a row out.
    """
    if isinstance(reward_funcs, Sequence) and not isinstance(reward_funcs, str):
        return [prune_rewards(function) for function in reward_funcs]
    if isinstance(reward_funcs, str) or hasattr(reward_funcs, "forward") or not callable(reward_funcs):
        raise ConfigError(
            f"reward_funcs = {reward_funcs!r}: a reward model cannot leave stopped rollouts out; "
            "wrap it in a function that returns a list of floats, or set rule = 'never'"
        )
    return _wrap(reward_funcs)


def reward_name(function: RewardFunction) -> str:
    """The name under which TRL logs it."""
    return getattr(function, "__name__", type(function).__name__)


def _wrap(function: RewardFunction) -> RewardFunction:
    name = reward_name(function)

    def split(columns: dict[str, Any]) -> tuple[dict[str, Any], Callable[[Rewards], Rewards]]:
        """The survivors' columns, and what puts their rewards back into rows."""
        tags = columns.pop(TAG_COLUMN, None)
        if not tags or tags[0] is None:  # evaluation, or another rollout function
            return columns, lambda values: values
        return _survivors(tags, columns), functools.partial(_into_rows, name, tags)

    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004

        async def wrapped_async(**columns: Any) -> Rewards:
            given, into_rows = split(columns)
            return into_rows(await function(**given) if given["completions"] else [])

        wrapped: RewardFunction = wrapped_async
    else:

        def wrapped_sync(**columns: Any) -> Rewards:
            given, into_rows = split(columns)
            return into_rows(function(**given) if given["completions"] else [])

        wrapped = wrapped_sync
    functools.update_wrapper(wrapped, function)
    wrapped.__name__ = name
    return wrapped


def _survivors(tags: Sequence[RowTag], columns: dict[str, Any]) -> dict[str, Any]:
    """Every column with one value per row, without stopped rows."""
    return {
        key: [each for each, tag in zip(value, tags, strict=True) if tag.survived]
        if isinstance(value, list) and len(value) == len(tags)
        else value
        for key, value in columns.items()
    }


def _into_rows(name: str, tags: Sequence[RowTag], values: Rewards) -> Rewards:
    """One value per row, None for stopped ones; the batch keeps a copy."""
    live = [row for row, tag in enumerate(tags) if tag.survived]
    values = list(values)
    if len(values) != len(live):
        raise DataError(
            f"reward_funcs = {name!r}: returned {len(values)} rewards for {len(live)} survivors; return one each"
        )
    rows: Rewards = [None] * len(tags)
    for row, value in zip(live, values, strict=True):
        rows[row] = None if value is None else float(value)
    tags[0].batch.rewards[name] = rows
    return rows
