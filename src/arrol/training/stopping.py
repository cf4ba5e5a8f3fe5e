"""Ctrl-C and other requests to stop: what is being sampled is given up, an update is finished, all is saved.

A step that is given up has changed nothing that a checkpoint holds, so a resumed run repeats it, bit for bit on a CPU.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):  # asyncio lets no other kind through
    """A request to stop met work that can be repeated."""


class StopRequest:
    """Whether SIGINT, SIGTERM or a closed terminal asked for an orderly end."""

    def __init__(self) -> None:
        self.is_made = False
        self._gives_up = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Signals make the request meanwhile; a second SIGINT interrupts at once. No signal reaches other threads."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def request(number: int, frame: FrameType | None) -> None:
            if self.is_made and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.is_made = True
            if self._gives_up:
                raise Interrupted

        with _handled(request, (signal.SIGINT, signal.SIGTERM)):
            yield

    @contextmanager
    def gives_up(self) -> Iterator[None]:
        """A request, also one that was made before, ends the block with :class:`Interrupted`: it can be repeated."""
        if self.is_made:
            raise Interrupted
        self._gives_up = True
        try:
            yield
        finally:
            self._gives_up = False


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal raise KeyboardInterrupt meanwhile, as Ctrl-C does; a second SIGTERM ends the
    process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled(_end, (signal.SIGTERM,)):
        yield


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt


@contextmanager
def _handled(handler: object, numbers: tuple[int, ...]) -> Iterator[None]:
    """The handler of these signals and of a closed terminal, unless that is ignored (nohup) or handled by others."""
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) in (signal.SIG_DFL, _end):
        numbers = (*numbers, signal.SIGHUP)
    previous = {number: signal.signal(number, handler) for number in numbers}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)
