"""Many verdicts at once: this process for what needs no algebra, several worker processes for the rest.

Verdicts come in the order of the questions and equal those of the single verifier. An answer that hangs kills its
worker and costs that answer alone. More workers than cores would let good answers run out of time, so by default there
is one for each core that this process may use.

Sample: ``with VerifierPool(SymbolicVerifier()) as pool: verdicts = pool.verify_all([(text, gold), ...])``.
"""

from __future__ import annotations

import functools
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from types import TracebackType
from typing import Self, TypeVar

from arrol.errors import ConfigError
from arrol.protocols import PendingVerdict, Verifier
from arrol.types import Verdict
from arrol.verifiers.equivalence import AnswerClasses, answer_classes
from arrol.verifiers.rules import Judged
from arrol.verifiers.symbolic import SymbolicVerifier

BLOCK = 32
"""Answers that a worker takes at a time; progress is reported after each block."""

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
        self._idle: queue.LifoQueue[Verifier] = queue.LifoQueue()  # the same few workers while few are needed
        for one in (*self._copies, verifier):
            self._idle.put(one)
        self._threads: ThreadPoolExecutor | None = None
        self._start = threading.Lock()

    @property
    def num_workers(self) -> int:
        return 1 + len(self._copies)

    def submit(self, text: str, answer: str) -> PendingVerdict:
        """Start a verdict; calling the result waits for it. One that needs no algebra is given at once."""
        if isinstance(self.verifier, SymbolicVerifier):
            judged = self.verifier.decided(text, answer)
            if judged.is_open:
                return self._executor().submit(self._lend, functools.partial(_settled, pair=(judged, answer))).result
            verdict = judged.verdict
        else:
            verdict = self.verifier.verify(text, answer)
        return lambda: verdict

    def verify_all(self, pairs: Sequence[tuple[str, str]], progress: Progress | None = None) -> list[Verdict]:
        """Verdicts of (text, gold answer) pairs, in their order; algebra is asked about what the rules leave open."""
        if not isinstance(self.verifier, SymbolicVerifier):
            return self._run(lambda verifier, pair: verifier.verify(*pair), pairs, progress)
        total = len(pairs)
        judged: list[Judged] = []
        places: list[int] = []  # of the open ones
        known: dict[tuple[str, str], Judged] = {}
        for number, pair in enumerate(pairs, 1):
            if pair not in known:
                known[pair] = self.verifier.decided(*pair)
            judged.append(known[pair])
            if judged[-1].is_open:
                places.append(number - 1)
            if progress is not None and number % BLOCK == 0:
                progress(number - len(places), total)
        closed = total - len(places)
        if progress is not None and pairs:
            progress(closed, total)
        told = None if progress is None else (lambda done, _: progress(closed + done, total))
        settled = self._run(_settled, [(judged[place], pairs[place][1]) for place in places], told)
        verdicts = [one.verdict for one in judged]
        for place, verdict in zip(places, settled, strict=True):
            verdicts[place] = verdict
        return verdicts

    def classes_of_all(
        self, problems: Sequence[Sequence[str | None]], progress: Progress | None = None
    ) -> list[AnswerClasses]:
        """Classes of equal answers of each problem; without a symbolic verifier only spellings are compared."""

        def classes(verifier: Verifier, answers: Sequence[str | None]) -> AnswerClasses:
            return answer_classes(answers, verifier if isinstance(verifier, SymbolicVerifier) else None)

        return self._run(classes, problems, progress)

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that live now."""
        verifiers = [v for v in (self.verifier, *self._copies) if isinstance(v, SymbolicVerifier)]
        return [pid for pid in (verifier.worker_pid for verifier in verifiers) if pid is not None]

    def close(self) -> None:
        """End the workers and what they are at; a later call starts others."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None
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
        stop = threading.Event()

        def run_block(block: Sequence[Item], verifier: Verifier) -> list[Result]:
            return [call(verifier, item) for item in block if not stop.is_set()]

        blocks = (items[start : start + size] for start in range(0, len(items), size))
        futures = [self._executor().submit(self._lend, functools.partial(run_block, block)) for block in blocks]
        try:
            done = 0
            for future in as_completed(futures):
                done += len(future.result())
                if progress is not None:
                    progress(done, len(items))
        finally:  # after an error or Ctrl-C the workers end with the answer they are at
            stop.set()
            for future in futures:
                future.cancel()
            wait(futures)
        return [result for future in futures for result in future.result()]

    def _lend(self, call: Callable[[Verifier], Result]) -> Result:
        """Call with a verifier that no other thread uses."""
        verifier = self._idle.get()
        try:
            return call(verifier)
        finally:
            self._idle.put(verifier)

    def _executor(self) -> ThreadPoolExecutor:
        with self._start:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.num_workers, "verifier")
            return self._threads


def _settled(verifier: Verifier, pair: tuple[Judged, str]) -> Verdict:
    """The verdict on a question that the rules left open."""
    assert isinstance(verifier, SymbolicVerifier)
    return verifier.settled(*pair)


def usable_cores() -> int:
    """Cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
