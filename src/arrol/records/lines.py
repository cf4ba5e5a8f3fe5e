"""Append-only files of lines: after a crash or a full disk every line but the last is whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from arrol.errors import DataError


class LineWriter:
    """Appends whole lines, on disk at :meth:`close`.

    A torn last line, left by a crash, is completed with a newline when ``is_whole`` says so and cut off otherwise.
    """

    def __init__(self, path: str | Path, is_whole: Callable[[bytes], bool], *, field: str, shown: str) -> None:
        """``field`` and ``shown`` name the file in an error."""
        self.path = Path(path)
        self._named = f"{field} = {shown!r}"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab+", buffering=0)  # noqa: SIM115 - lives as long as the writer
            _mend_tail(self._file, is_whole)
        except OSError as error:
            raise self._failed(error) from None

    def write_line(self, line: bytes) -> None:
        """Append one line without its newline; when the disk refuses, the file keeps the lines it had."""
        line += b"\n"
        size = self._file.seek(0, os.SEEK_END)
        written = 0
        try:
            while written < len(line):
                written += self._file.write(line[written:]) or 0
        except OSError as error:
            with suppress(OSError):  # a device cannot be cut
                self._file.truncate(size)
            raise self._failed(error) from None

    def sync(self) -> None:
        """Wait until what was written is on disk, for example before a checkpoint that relies on it."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        """Sync and close; a second call does nothing."""
        if not self._file.closed:
            try:
                self.sync()
            finally:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _failed(self, error: OSError) -> DataError:
        return DataError(f"{self._named}: cannot be written ({error.strerror}); free space or choose another folder")


def _mend_tail(file: FileIO, is_whole: Callable[[bytes], bool]) -> None:
    """End the file after its last whole line."""
    size = start = file.seek(0, os.SEEK_END)
    tail = b""
    while start > 0 and b"\n" not in tail:
        start = file.seek(max(0, start - 2**16))
        tail = file.read(size - start)
    torn = tail[tail.rfind(b"\n") + 1 :]
    if not torn:
        return
    if is_whole(torn):
        file.write(b"\n")
    else:
        file.truncate(size - len(torn))
