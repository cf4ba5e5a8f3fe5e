"""Many answers at once: several workers for algebra, this process for everything else.

Order is kept, and the verdicts are those of the single verifier. An answer that hangs kills the worker it hung in and
costs that answer alone; the other workers go on meanwhile. More workers than cores would let honest answers run out of
time, so by default there is one for each core this process may use.

Sample: ``with VerifierPool(SymbolicVerifier()) as pool: verdicts = pool.verify_all([(text, gold), ...])``.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import TracebackType
from typing import Self, TypeVar

from arrol.errors import ConfigError
from arrol.protocols import Verifier
from arrol.types import Verdict
from arrol.verifiers.equivalence import AnswerClasses, answer_classes
from arrol.verifiers.symbolic import SymbolicVerifier

BLOCK = 32
"""Answers that a worker takes at a time, and after which progress is told."""

Progress = Callable[[int, int], None]
"""Called with (done, total), from the caller's thread."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class VerifierPool:
    """A verifier, or copies of it with a worker each when it is symbolic."""

    def __init__(self, verifier: Verifier, *, num_workers: int = 0) -> None:
        """``num_workers`` 0 means one for each usable core; a verifier without a worker runs in this process."""
        if num_workers < 0:
            raise ConfigError(f"num_workers: {num_workers} is negative; give 0 for one per core, or a number from 1")
        self.verifier = verifier
        self._copies: list[SymbolicVerifier] = []
        if isinstance(verifier, SymbolicVerifier):
            self._copies = [verifier.copy() for _ in range((num_workers or usable_cores()) - 1)]

    @property
    def num_workers(self) -> int:
        return 1 + len(self._copies)

    def verify_all(self, pairs: Sequence[tuple[str, str]], progress: Progress | None = None) -> list[Verdict]:
        """Verdicts of (text, gold answer) pairs, in their order."""
        return self._run(lambda verifier, pair: verifier.verify(*pair), pairs, progress)

    def classes_of_all(
        self, problems: Sequence[Sequence[str | None]], progress: Progress | None = None
    ) -> list[AnswerClasses]:
        """Classes of equal answers of each problem; algebra is asked only where the verifier is symbolic."""

        def classes(verifier: Verifier, answers: Sequence[str | None]) -> AnswerClasses:
            return answer_classes(answers, verifier if isinstance(verifier, SymbolicVerifier) else None)

        return self._run(classes, problems, progress)

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that live now, for whoever wants to watch them."""
        verifiers = [v for v in (self.verifier, *self._copies) if isinstance(v, SymbolicVerifier)]
        return [pid for pid in (verifier.worker_pid for verifier in verifiers) if pid is not None]

    def close(self) -> None:
        """End the workers; a later call starts others."""
        for verifier in (self.verifier, *self._copies):
            if isinstance(verifier, SymbolicVerifier):
                verifier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(
        self, call: Callable[[Verifier, Item], Result], items: Sequence[Item], progress: Progress | None
    ) -> list[Result]:
        size = max(1, min(BLOCK, len(items) // (4 * self.num_workers)))
        blocks = [items[start : start + size] for start in range(0, len(items), size)]
        results: list[list[Result]] = [[] for _ in blocks]
        idle: queue.SimpleQueue[Verifier] = queue.SimpleQueue()
        for verifier in (self.verifier, *self._copies):
            idle.put(verifier)
        stop = threading.Event()

        def run_block(number: int) -> int:
            verifier = idle.get()
            try:
                for item in blocks[number]:
                    if stop.is_set():
                        break
                    results[number].append(call(verifier, item))
            finally:
                idle.put(verifier)
            return len(results[number])

        executor = ThreadPoolExecutor(self.num_workers)
        try:
            done = 0
            for future in as_completed([executor.submit(run_block, number) for number in range(len(blocks))]):
                done += future.result()
                if progress is not None:
                    progress(done, len(items))
        finally:  # after an error or Ctrl-C the workers end with the answer they are at
            stop.set()
            executor.shutdown(cancel_futures=True)
        return [result for block in results for result in block]


def usable_cores() -> int:
    """Cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
