"""Rewards of completions by functions of the user: what each gave, their weighted sum, and whether that is a success.

Without a time limit the functions run in this process, once for all completions whose verdicts are waited for next: in
training the survivors of a step, in an evaluation all completions. With one, worker processes are asked for one
completion at a time while others are generated; a call that hangs, or that kills its process, costs that completion.

A completion that a function raised an error for has no reward: it is never silently 0, and never the sum of the others.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from arrol.configs.task import RewardFields
from arrol.errors import ConfigError
from arrol.protocols import PendingVerdict
from arrol.types import Verdict
from arrol.verifiers.function_pool import FunctionPool
from arrol.verifiers.functions import Failure, RewardFunction, Submission, Value, called, load_functions

logger = logging.getLogger(__name__)
ENOUGH = 256
"""Values before a word about the threshold."""
MAX_TOLD = 5
"""Failures told in full; the others are only counted."""


class RewardJudge:
    """Reward functions with one success among them; ``submit`` starts a verdict, calling the result waits for it."""

    def __init__(
        self,
        functions: Sequence[RewardFunction],
        *,
        success: str | None = None,
        threshold: float = 0.5,
        time_limit_s: float | None = None,
        folder: str | None = None,
    ) -> None:
        """``success`` names the function whose value above ``threshold`` is a success; needed with several."""
        self.functions = list(functions)
        self._success = success_place([function.name for function in functions], success)
        self._threshold = threshold
        self._pool = None if time_limit_s is None else FunctionPool(self.functions, time_limit_s, folder)
        self._waiting: list[tuple[Submission, list[Verdict]]] = []
        self._num_told = 0
        self._seen: tuple[int, float, float] | None = (0, math.inf, -math.inf)
        """Values of the function that says what is right: number, lowest, highest; None when enough were seen."""
        self._runner: asyncio.Runner | None = None
        self._thread: ThreadPoolExecutor | None = None

    @classmethod
    def of(cls, config: RewardFields) -> Self | None:
        """The judge of a config, its functions imported; None where a verifier judges."""
        if not config.reward:
            return None
        paths, weights = [one.function for one in config.reward], [one.weight for one in config.reward]
        return cls(
            load_functions(paths, weights, config.reward_folder),
            success=config.success_reward,
            threshold=config.success_threshold,
            time_limit_s=config.reward_time_limit_s,
            folder=config.reward_folder,
        )

    def submit(self, asked: Submission) -> PendingVerdict:
        """Ask for the reward of a completion."""
        if self._pool is not None:
            pending = self._pool.submit(asked)
            return lambda: self._verdict(asked, pending())
        place: list[Verdict] = []
        self._waiting.append((asked, place))

        def wait() -> Verdict:
            if not place:
                self._settle()
            return place[0]

        return wait

    def try_on(self, asked: Submission) -> None:
        """Call each function with a completion, twice over; one line where it does not return two numbers or None.

        An error that it raises is passed over: it may be about this one completion.
        """
        for place, function in enumerate(self.functions):
            pair = [asked, asked]
            found = called(function, pair, self._run) if self._pool is None else self._pool.values(place, pair)
            for value in found:
                if isinstance(value, Failure) and value.reason.startswith("returned"):
                    raise ConfigError(f"{function.field}: {value.reason}")

    def require_columns(self, columns: Iterable[str]) -> None:
        """ConfigError where a function cannot be called with these columns."""
        known = set(columns)
        for function in self.functions:
            function.require_columns(known)

    def close(self) -> None:
        """End the worker processes and the event loop of async functions; a later call starts others."""
        if self._pool is not None:
            self._pool.close()
        if self._runner is not None:
            if self._thread is None:
                self._runner.close()
            else:
                self._thread.submit(self._runner.close).result()
                self._thread.shutdown()
            self._runner = self._thread = None

    def _settle(self) -> None:
        waiting, self._waiting = self._waiting, []
        asked_N = [asked for asked, _ in waiting]
        columns = [called(function, asked_N, self._run) for function in self.functions]
        for (asked, place), values in zip(waiting, zip(*columns, strict=True), strict=True):
            place.append(self._verdict(asked, values))

    def _run(self, awaitable: Any) -> Any:
        """The result of an async function; one event loop for all calls, as its connections belong to a loop."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._runner.run(_awaited(awaitable))
        if self._thread is None:  # a notebook runs a loop in this thread
            self._thread = ThreadPoolExecutor(1)
        return self._thread.submit(self._runner.run, _awaited(awaitable)).result()

    def _verdict(self, asked: Submission, values: Sequence[Value]) -> Verdict:
        numbers = [value if isinstance(value, float) else math.nan for value in values]
        parts = tuple((function.name, number) for function, number in zip(self.functions, numbers, strict=True))
        by = ", ".join(function.path for function in self.functions)
        for function, value in zip(self.functions, values, strict=True):
            if isinstance(value, Failure):
                reason = f"{function.field}: row {asked.row}: {value.reason}"
                self._tell(reason)
                nothing = math.nan
                return Verdict(nothing, None, verifier=by, reason=reason, success=nothing, failed=True, parts=parts)
        known = [f.weight * n for f, n in zip(self.functions, numbers, strict=True) if not math.isnan(n)]
        right = numbers[self._success]
        self._watch(right)
        success = math.nan if math.isnan(right) else float(right > self._threshold)
        return Verdict(sum(known) if known else math.nan, None, verifier=by, success=success, parts=parts)

    def _watch(self, value: float) -> None:
        """Say once that the threshold does not divide the values, when enough were seen that differ."""
        if self._seen is None or math.isnan(value):
            return
        count, low, high = self._seen[0] + 1, min(self._seen[1], value), max(self._seen[2], value)
        self._seen = None if count >= ENOUGH else (count, low, high)
        if self._seen is not None or low == high or low <= self._threshold < high:
            return
        share, all_of = ("none", "no completion counts") if high <= self._threshold else ("each", "all count")
        logger.warning(
            "arrol: task.success_threshold = %g: %s of the first %d values of %r (%g to %g) is above it, so %s as a "
            "success; set it between the values of wrong and of right answers",
            *(self._threshold, share, count, self.functions[self._success].path, low, high, all_of),
        )

    def _tell(self, reason: str) -> None:
        self._num_told += 1
        if self._num_told <= MAX_TOLD:
            logger.warning("arrol: %s; this completion has no reward and does not train", reason)
        if self._num_told == MAX_TOLD:
            logger.warning("arrol: further failures of reward functions are only counted, in reward/failed")


def success_place(names: Sequence[str], success: str | None) -> int:
    """Position of the function whose value says whether a completion is a success."""
    if success is None and len(names) == 1:
        return 0
    if success not in names:
        raise ConfigError(
            f"task.success_reward = {success!r}: name the one of {sorted(names)} that says whether an answer is right"
        )
    return names.index(success)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
