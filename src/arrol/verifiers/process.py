"""A worker process that answers questions on its pipes, and is killed when it takes too long."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress

Reply = dict[str, object]


class AnsweringProcess:
    """One process and its two pipes: bytes in, one JSON line out per question; ``hello`` is the first line, or None."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        start_limit_s: float,
        env: Mapping[str, str] | None = None,
        stderr: int | None = subprocess.DEVNULL,
        owns_group: bool = False,
    ) -> None:
        """``owns_group``: the end takes the processes that it started along. ``stderr`` None shows what it writes."""
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            bufsize=0,
            env=env,
            start_new_session=owns_group,
        )
        self.timed_out = False
        self._received = b""
        # Runs when the owner is dropped and at the interpreter's end, whichever comes first.
        self.stop = weakref.finalize(self, _end, self.process, owns_group)
        self.hello = self._receive(start_limit_s)

    def ask(self, question: bytes, time_limit_s: float) -> Reply | None:
        """The reply, or None when the process died, took too long or wrote nonsense; it must be stopped then."""
        assert self.process.stdin is not None
        try:
            view = memoryview(question)
            while view:  # a raw pipe may take a part
                view = view[self.process.stdin.write(view) :]
        except OSError:  # it died between two questions
            return None
        return self._receive(time_limit_s)

    def _receive(self, time_limit_s: float) -> Reply | None:
        assert self.process.stdout is not None
        descriptor, deadline = self.process.stdout.fileno(), time.monotonic() + time_limit_s
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.timed_out = True
                    return None
                block = os.read(descriptor, 65_536)
                if not block:
                    return None
                self._received += block
        line, _, self._received = self._received.partition(b"\n")
        try:
            reply = json.loads(line)
        except ValueError:
            return None
        return reply if isinstance(reply, dict) else None


def _end(process: subprocess.Popen[bytes], owns_group: bool) -> None:
    """Kill and reap: no zombie, no open pipe."""
    if owns_group and hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
