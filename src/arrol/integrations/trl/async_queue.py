"""The queue between worker and trainer: who waits, what was surely trained on, which state belongs to it."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from arrol.types import State

if TYPE_CHECKING:
    from trl.experimental.async_grpo.async_rollout_worker import RolloutSample

REMEMBERED = 1 << 16
"""Samples whose length is remembered after the trainer took them."""


class SampleQueue(queue.Queue["RolloutSample"]):
    """A queue that tells when its reader waits. A batch goes in as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.is_awaited = threading.Event()
        """Set while the trainer waits for a sample: it can make no step, so its weights stand still."""
        self.num_put = self.num_taken = 0
        self._gate = threading.Lock()
        self._lengths: deque[int] = deque(maxlen=REMEMBERED)
        """Completion tokens of the samples taken, newest last."""

    def get(self, block: bool = True, timeout: float | None = None) -> RolloutSample:
        """As ``queue.Queue``."""
        with self._gate:
            if self.empty():
                self.is_awaited.set()
        sample = super().get(block, timeout)
        with self._gate:
            self.num_taken += 1
            self._lengths.append(int(sample.completion_mask.sum()))
        return sample

    def put_all(self, samples: Sequence[RolloutSample]) -> None:
        """Add a batch."""
        with self._gate:
            for sample in samples:
                self.put_nowait(sample)
            self.num_put += len(samples)
            if samples:
                self.is_awaited.clear()

    def surely_trained(self, *, samples: int, tokens: int) -> int:
        """Samples taken and not held back by TRL's loader, which reads one microbatch ahead.

        A microbatch has that many ``samples``, or with a budget as many as their completions have ``tokens``, and one
        more that did not fit.
        """
        with self._gate:
            if tokens:
                samples, held = 1, 0
                for length in reversed(self._lengths):
                    held += length
                    if held > tokens:
                        break
                    samples += 1
            return max(0, self.num_taken - samples)


class Snapshots:
    """States of the worker, each with the number of samples that were put before it."""

    def __init__(self) -> None:
        self._states: deque[tuple[int, State]] = deque()
        self._lock = threading.Lock()

    def add(self, num_put: int, state: State) -> None:
        """The state once ``num_put`` samples were put."""
        with self._lock:
            self._states.append((num_put, state))

    def before(self, num_trained: int) -> State | None:
        """The newest state whose samples were all trained on; older ones are forgotten. None without a state."""
        with self._lock:
            while len(self._states) > 1 and self._states[1][0] <= num_trained:
                self._states.popleft()
            return self._states[0][1] if self._states else None
