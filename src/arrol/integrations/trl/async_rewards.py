"""TRL's reward functions during generation: ended rollouts in, one value per function out.

Rollouts that end while a call runs are rewarded together in the next call, in a thread of its own. A function must
therefore give a completion the same reward in any company, as a verifier does.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from arrol.errors import ConfigError, DataError
from arrol.integrations.trl.batch import RewardFunction
from arrol.integrations.trl.rewards import reward_name
from arrol.types import Completion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = Mapping[str, object]
"""A row of the data set; ``prompt`` is text or chat messages."""
PROMPT_COLUMNS = frozenset({"prompt", "completion", "completion_ids"})
"""Columns that a reward function gets in another form, as in TRL."""
WrittenCompletion = str | list[dict[str, object]]


@dataclass
class RewardedRollout:
    """A rollout whose reward is asked for."""

    row: Row
    completion: WrittenCompletion
    token_ids: tuple[int, ...]
    values: Future[np.ndarray] = field(default_factory=Future)
    """float64, one per function; NaN where it gave None."""


class RewardCalls:
    """Reward functions, sync or async, and the rollouts that wait for them."""

    def __init__(self, functions: Sequence[RewardFunction], tokenizer: PreTrainedTokenizerBase) -> None:
        """ConfigError without a function, or for a reward model."""
        if not functions:
            raise ConfigError("reward_funcs: missing; the quality head learns from them")
        for function in functions:
            if isinstance(function, str) or hasattr(function, "forward") or not callable(function):
                raise ConfigError(
                    f"reward_funcs = {function!r}: the worker calls functions only; wrap the reward model in a "
                    "function that returns a list of floats"
                )
        self.names = [reward_name(function) for function in functions]
        self._functions, self._tokenizer = list(functions), tokenizer
        self._write = completion_writer(tokenizer)
        self._waiting: list[RewardedRollout] = []
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "arrol-rewards")

    def submit(self, row: Row, prompt_ids: Sequence[int], completion: Completion) -> RewardedRollout:
        """Ask for the rewards of a completion."""
        written = self._write(row, prompt_ids, completion.token_ids)
        rollout = RewardedRollout(row, written, completion.token_ids)
        with self._lock:
            self._waiting.append(rollout)
        self._pool.submit(self._call)
        return rollout

    def close(self) -> None:
        """Drop calls that have not begun; waiting for one raises CancelledError."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for rollout in self._waiting:
                rollout.values.cancel()

    def _call(self) -> None:
        with self._lock:
            rollouts, self._waiting = self._waiting, []
        if not rollouts:
            return
        try:
            values = np.stack([self._rewards(place, rollouts) for place in range(len(self._functions))], axis=1)
        except BaseException as error:  # it belongs to the thread that waits
            for rollout in rollouts:
                rollout.values.set_exception(error)
            return
        for rollout, row in zip(rollouts, values, strict=True):
            rollout.values.set_result(row)

    def _rewards(self, place: int, rollouts: Sequence[RewardedRollout]) -> np.ndarray:
        keys = [key for key in rollouts[0].row if key not in PROMPT_COLUMNS]
        columns: dict[str, list[object]] = {key: [rollout.row.get(key) for rollout in rollouts] for key in keys}
        columns["prompts"] = [rollout.row["prompt"] for rollout in rollouts]
        columns["completions"] = [rollout.completion for rollout in rollouts]
        columns["completion_ids"] = [list(rollout.token_ids) for rollout in rollouts]
        given = self._functions[place](**columns)
        values = list(asyncio.run(_awaited(given)) if inspect.isawaitable(given) else given)
        if len(values) != len(rollouts):
            raise DataError(
                f"reward_funcs = {self.names[place]!r}: returned {len(values)} rewards for {len(rollouts)} "
                "completions; return one each"
            )
        rewards = np.array([np.nan if value is None else float(value) for value in values])
        if np.isinf(rewards).any():
            raise DataError(
                f"reward_funcs = {self.names[place]!r}: returned an infinite reward; return finite numbers, or None"
            )
        return rewards


async def _awaited(given: object) -> Sequence[float | None]:
    return await given  # type: ignore[misc]  # checked by the caller


def completion_writer(
    tokenizer: PreTrainedTokenizerBase,
) -> Callable[[Row, Sequence[int], Sequence[int]], WrittenCompletion]:
    """Function of row, prompt ids and completion ids: the completion as TRL gives it to a reward function.

    Text for a text prompt; for a chat one message, read by the tokenizer's response template where TRL knows one.
    """
    from trl.chat_template_utils import add_response_schema, parse_response

    has_template = any(getattr(tokenizer, name, None) for name in ("response_template", "response_schema"))
    if tokenizer.chat_template and not has_template:
        try:
            add_response_schema(tokenizer)
            has_template = True
        except ValueError:  # a template that TRL does not know: its text is the message
            has_template = False

    def write(row: Row, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> WrittenCompletion:
        if not isinstance(row["prompt"], str) and has_template:
            return [parse_response(tokenizer, list(token_ids), prefix=list(prompt_ids))]
        text = str(tokenizer.decode(list(token_ids), skip_special_tokens=True))
        return text if isinstance(row["prompt"], str) else [{"role": "assistant", "content": text}]

    return write
