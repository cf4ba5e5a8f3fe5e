"""The console of a command that trains: a terminal that is closed, or a pipe whose reader ends, does not end it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast

from rich.console import Console


class LastingStream:
    """A stream whose reader may go away: from then on, what is written is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        """Point the descriptor at nothing, so that what is still buffered is no error at exit."""
        with contextlib.suppress(OSError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def warner(console: Console, name: str = "") -> Callable[[str], None]:
    """Prints a warning, of the run of that name where one is given."""
    return lambda text: console.print(f"warning: {f'{name}: ' * bool(name)}{text}", soft_wrap=True)


def run_console(*, as_json: bool) -> Console:
    """Console on stdout, or on stderr where stdout gets JSON."""
    stream = LastingStream(sys.stderr if as_json else sys.stdout)
    return Console(file=cast(TextIO, stream), markup=False, highlight=False)
