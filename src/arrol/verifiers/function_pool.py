"""Worker processes for reward functions: one completion at a time, with a time limit.

A worker that takes too long or dies is killed with the processes that it started, and the next question starts another.
"""

from __future__ import annotations

import functools
import os
import pickle
import queue
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from arrol.errors import ConfigError, DataError
from arrol.verifiers.functions import Failure, RewardFunction, Submission, Value
from arrol.verifiers.pool import usable_cores
from arrol.verifiers.process import AnsweringProcess

MAX_WORKERS = 8
START_LIMIT_S = 120.0
"""Time for a worker to import the functions; not part of a call's time limit."""


class FunctionPool:
    """Lends workers to threads; each has imported all functions."""

    def __init__(
        self, functions: Sequence[RewardFunction], time_limit_s: float, folder: str | None, *, num_workers: int = 0
    ) -> None:
        """``num_workers`` 0 means one for each usable core, at most :data:`MAX_WORKERS`."""
        self._functions, self._time_limit_s, self._folder = list(functions), time_limit_s, folder
        self._num_workers = num_workers or min(usable_cores(), MAX_WORKERS)
        self._live: set[_Worker] = set()
        self._is_closing = False
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(self._num_workers):
            self._idle.put(None)  # not started
        self._threads: ThreadPoolExecutor | None = None

    def submit(self, asked: Submission) -> Callable[[], list[Value]]:
        """Start the calls of one completion; calling the result waits for one value per function."""
        return self._executor().submit(self._all_of, asked).result

    def values(self, place: int, asked_N: Sequence[Submission]) -> list[Value]:
        """What the function at ``place`` gives to these completions in one call."""
        return self._lend(functools.partial(self._called, place=place, asked_N=asked_N))

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that are idle now."""
        return [worker.process.pid for worker in list(self._idle.queue) if worker is not None]

    def close(self) -> None:
        """End the workers and what they are at; a later call starts others."""
        self._is_closing = True
        for worker in list(self._live):
            worker.process.kill()  # its thread sees the end and tidies up
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._threads = None
        for idle in [self._idle.get() for _ in range(self._num_workers)]:
            if idle is not None:
                idle.stop()
        for _ in range(self._num_workers):
            self._idle.put(None)
        self._live.clear()
        self._is_closing = False

    def _all_of(self, asked: Submission) -> list[Value]:
        """One value per function; after a failure the others are not asked, since the completion has no reward."""
        found: list[Value] = []
        for place in range(len(self._functions)):
            has_failed = self._is_closing or any(isinstance(value, Failure) for value in found)
            found.append(None if has_failed else self.values(place, [asked])[0])
        return found

    def _lend(self, call: Callable[[_Worker], tuple[_Worker | None, list[Value]]]) -> list[Value]:
        kept = self._idle.get()
        try:
            worker = kept or _Worker(self._functions, self._folder)
            self._live.add(worker)
            kept, values = call(worker)
            return values
        finally:
            self._idle.put(kept)

    def _called(
        self, worker: _Worker, *, place: int, asked_N: Sequence[Submission]
    ) -> tuple[_Worker | None, list[Value]]:
        """The values, and the worker unless it had to be killed."""
        function = self._functions[place]
        question = {"place": place, "asked": [tuple(one) for one in asked_N]}
        try:
            # To our own child, of our own objects: cells of Parquet may be dates and bytes. Replies are JSON.
            reply = worker.ask(pickle.dumps(question), self._time_limit_s)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise DataError(
                f"{function.field}: a cell of row {asked_N[0].key!r} cannot be sent to a worker process ({error}); "
                "leave task.reward_time_limit_s out"
            ) from None
        if reply is None:
            reason = f"took longer than task.reward_time_limit_s = {self._time_limit_s:g}"
            if not worker.timed_out:
                reason = "its worker process died"
            worker.stop()
            self._live.discard(worker)
            return None, [Failure(reason)] * len(asked_N)
        if "malformed" in reply:
            raise DataError(str(reply["malformed"]))
        values: Any = reply["values"]
        return worker, [Failure(str(one["failure"])) if isinstance(one, dict) else one for one in values]

    def _executor(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._num_workers, "reward")
        return self._threads


class _Worker(AnsweringProcess):
    """One process that runs ``function_worker.py``."""

    def __init__(self, functions: Sequence[RewardFunction], folder: str | None) -> None:
        paths = [function.path for function in functions]
        super().__init__(
            [sys.executable, "-P", "-m", "arrol.verifiers.function_worker", folder or ".", *paths],
            start_limit_s=START_LIMIT_S,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stderr=None,
            owns_group=True,
        )
        if self.hello is None or "ready" not in self.hello:
            self.stop()
            reason = "its import took too long, or ended the process"
            raise ConfigError(
                f"task.reward = {paths[0]!r}: no worker process started ({(self.hello or {}).get('error', reason)}); "
                "mend the module, or leave task.reward_time_limit_s out"
            )
