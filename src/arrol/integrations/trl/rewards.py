"""Reward functions that are called with survivors only, and whose values reach the quality head."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, overload

from arrol.errors import ConfigError, DataError
from arrol.integrations.trl.batch import RewardFunction, RolloutBatch, RowTag

TAG_COLUMN = "arrol_rollout"
"""Extra column of a pruned rollout function: one :class:`RowTag` per row."""

Rewards = list[float | None]


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
    return _wrap(reward_funcs, _survivors_only)


Note = Callable[[RewardFunction, dict[str, Any], Any], Rewards]
"""Wrapped function, its columns and its values in; what TRL gets out."""


def observe_rewards(reward_funcs: Sequence[RewardFunction], note: Note) -> list[RewardFunction]:
    """Wrap reward functions, sync or async, so that ``note`` is called with what they see and return."""

    def noted(wrapped: RewardFunction, columns: dict[str, Any]) -> tuple[dict[str, Any], Callable[[Any], Rewards]]:
        return columns, functools.partial(note, wrapped, columns)

    return [_wrap(function, noted) for function in reward_funcs]


def reward_name(function: RewardFunction) -> str:
    """The name under which TRL logs it; that of the wrapped function for a ``functools.partial``."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def _survivors_only(
    wrapped: RewardFunction, columns: dict[str, Any]
) -> tuple[dict[str, Any], Callable[[Rewards], Rewards]]:
    """The survivors' columns, and what puts their rewards back into rows."""
    tags = columns.pop(TAG_COLUMN, None)
    if not tags or tags[0] is None:  # evaluation, or another rollout function
        return columns, lambda values: values
    if tags[0].batch.is_evaluation:
        return columns, functools.partial(_noted, wrapped, tags[0].batch)
    tags[0].batch.note_columns(columns)
    return _survivors(tags, columns), functools.partial(_into_rows, wrapped, tags)


Split = Callable[[RewardFunction, dict[str, Any]], tuple[dict[str, Any], Callable[[Any], Rewards]]]


def _wrap(function: RewardFunction, split: Split) -> RewardFunction:
    """``split`` gives the columns that the function sees, and what makes TRL's rewards of its values."""

    if _is_async(function):

        async def wrapped_async(**columns: Any) -> Rewards:
            given, into_rows = split(wrapped, columns)
            return into_rows(await function(**given) if given["completions"] else [])

        wrapped: RewardFunction = wrapped_async
    else:

        def wrapped_sync(**columns: Any) -> Rewards:
            given, into_rows = split(wrapped, columns)
            return into_rows(function(**given) if given["completions"] else [])

        wrapped = wrapped_sync
    functools.update_wrapper(wrapped, function)
    wrapped.__name__ = reward_name(function)
    return wrapped


def _is_async(function: RewardFunction) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _survivors(tags: Sequence[RowTag], columns: dict[str, Any]) -> dict[str, Any]:
    """Every column with one value per row, without stopped rows; ``log_extra`` takes the survivors' values."""
    given = {
        key: [each for each, tag in zip(value, tags, strict=True) if tag.survived]
        if isinstance(value, list) and len(value) == len(tags)
        else value
        for key, value in columns.items()
    }
    if "log_extra" in columns:
        given["log_extra"] = functools.partial(_log_rows, columns["log_extra"], tags)
    return given


def _log_rows(log_extra: Callable[[str, list[Any]], None], tags: Sequence[RowTag], column: str, values: Any) -> None:
    """TRL's ``log_extra`` with one value per row."""
    rows = _rows_of(tags, values, f"log_extra({column!r}):")
    tags[0].batch.note_logged(column, rows)
    log_extra(column, rows)


def _noted(function: RewardFunction, batch: RolloutBatch, values: Rewards) -> Rewards:
    """The values of an evaluation as they are; the batch keeps them too."""
    batch.rewards[function] = [None if value is None else float(value) for value in values]
    return values


def _rows_of(tags: Sequence[RowTag], values: Sequence[Any], told: str) -> list[Any]:
    """One value per row, None for stopped ones; DataError beginning with ``told`` unless there is one per survivor."""
    survivors = sum(tag.survived for tag in tags)
    if len(values) != survivors:
        raise DataError(f"{told} {len(values)} values for {survivors} survivors; give one each")
    rest = iter(values)
    return [next(rest) if tag.survived else None for tag in tags]


def _into_rows(function: RewardFunction, tags: Sequence[RowTag], values: Rewards) -> Rewards:
    """One reward per row, None for stopped ones; the batch keeps a copy under the wrapped ``function``."""
    values = [None if value is None else float(value) for value in values]
    if any(value is not None and math.isinf(value) for value in values):
        raise DataError(
            f"reward_funcs = {function.__name__!r}: returned an infinite reward; return finite numbers, or None"
        )
    rows: Rewards = _rows_of(tags, values, f"reward_funcs = {function.__name__!r}: returned")
    tags[0].batch.rewards[function] = rows
    return rows
