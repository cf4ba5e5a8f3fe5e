"""Ctrl-C and other requests to stop: the step is finished and saved, then the run ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class StopRequest:
    """Whether SIGINT, SIGTERM or a closed terminal asked for an orderly end."""

    def __init__(self) -> None:
        self.is_made = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Signals make the request meanwhile; a second SIGINT interrupts at once. No signal reaches other threads."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def request(number: int, frame: object) -> None:
            if self.is_made and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.is_made = True

        asked = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # ignored under nohup
            asked.append(signal.SIGHUP)
        previous = {number: signal.signal(number, request) for number in asked}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
