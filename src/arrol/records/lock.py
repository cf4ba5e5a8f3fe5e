"""One process at a time writes a folder or a file, and another is told which process that is.

The lock is the system's own, on a file: ``FOLDER/.lock``, or ``.lock-NAME`` beside a file NAME. It ends with its
process, however that dies, so a file that a killed process left behind holds nothing. The file names its process::

    {"pid": 4711, "host": "node7", "since": "2026-11-30 07:18:57 UTC"}

Where the system or the file system has no such locks (not POSIX, some network disks), nothing is held.
"""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from arrol.errors import CheckpointError

LOCK_FILE = ".lock"


class Claim:
    """Holds folders and files for this process until it is left."""

    def __init__(self) -> None:
        self._held: dict[Path, int] = {}
        self._made: list[Path] = []
        """Folders that were made for a lock, outermost first."""

    def take(self, folder: Path, option: str = "name") -> bool:
        """Hold a folder, False where it is absent; CheckpointError, which names ``option``, when another process
        holds it."""
        if not folder.is_dir():
            return False
        self._take(folder / LOCK_FILE, folder, option, folder.name if option == "name" else str(folder))
        return True

    def take_file(self, path: Path, option: str) -> None:
        """Hold a file that will be written, in a folder that is made for it; CheckpointError as in :meth:`take`."""
        missing = [each for each in reversed(path.absolute().parents) if not each.exists()]
        self._made += missing
        path.parent.mkdir(parents=True, exist_ok=True)
        self._take(path.with_name(f"{LOCK_FILE}-{path.name}"), path, option, str(path))

    def drop(self, folder: Path) -> None:
        """Hold a folder no longer."""
        _release(folder / LOCK_FILE, self._held.pop(folder / LOCK_FILE, None))

    def _take(self, path: Path, target: Path, option: str, value: str) -> None:
        if path in self._held:
            return
        try:
            self._held[path] = _locked(path)
        except NotImplementedError:
            return
        except BlockingIOError:
            raise CheckpointError(
                f"{option} = {value!r}: {_owner(path)} writes to {target}; wait for it or choose another"
                + (" --name" if option == "name" else "")
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._held:
            _release(*self._held.popitem())
        for folder in reversed(self._made):
            with suppress(OSError):  # something was written there
                folder.rmdir()


def _locked(path: Path) -> int:
    """Descriptor of a lock file that is held; BlockingIOError when another process holds it, NotImplementedError where
    there are no locks."""
    try:
        import fcntl
    except ImportError:  # not POSIX
        raise NotImplementedError from None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, descriptor):  # else its holder has just removed it
                _name_owner(descriptor)
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError:  # a file system without locks
            os.close(descriptor)
            raise NotImplementedError from None
        os.close(descriptor)


def _release(path: Path, descriptor: int | None) -> None:
    """Remove the file, unless it is another one by now, then end the lock."""
    if descriptor is not None:
        with suppress(OSError):
            if _is_at(path, descriptor):
                path.unlink()
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _name_owner(descriptor: int) -> None:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    text = json.dumps({"pid": os.getpid(), "host": platform.node(), "since": since})
    with suppress(OSError):  # a full disk: the lock holds without a name
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _owner(path: Path) -> str:
    try:
        facts: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return f"process {int(facts['pid'])} on {facts['host']} (since {facts['since']})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # not written yet, or damaged
        return "another process"
