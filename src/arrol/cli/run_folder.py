"""A run's folder: one process at a time writes to it, and a start that learned nothing does not hold its name.

A start has learned nothing while its records have no row of a step and it has no checkpoint: it failed, or was killed,
before the end of its first step. The next start takes its place, with any config.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from arrol.cli.live import LIVE_FILE
from arrol.errors import CheckpointError
from arrol.records.folder import forget_records
from arrol.records.schema import Record, StepRecord
from arrol.records.store import RECORDS_FILE
from arrol.training.checkpoint import newest_checkpoint

CHECKPOINTS = "checkpoints"


class Claim:
    """Holds folders for this process until it is left; the system releases them when the process ends."""

    def __init__(self) -> None:
        self._held: dict[Path, int] = {}

    def take(self, folder: Path) -> None:
        """Hold a folder that exists; CheckpointError when another process holds it."""
        if folder in self._held or not folder.is_dir():
            return
        try:
            import fcntl
        except ImportError:  # not POSIX
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise CheckpointError(
                f"name = {folder.name!r}: another process writes to {folder}; wait for it or choose another --name"
            ) from None
        except OSError:  # a file system without locks
            os.close(descriptor)
            return
        self._held[folder] = descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._held:
            os.close(self._held.popitem()[1])


def require_run(folders: Sequence[Path]) -> None:
    """CheckpointError where ``--resume`` finds none of the folders with records or checkpoints."""
    if any((folder / RECORDS_FILE).exists() or newest_checkpoint(folder / CHECKPOINTS) for folder in folders):
        return
    folder = folders[0]
    runs = sorted(path.parent.name for path in folder.parent.glob(f"*/{RECORDS_FILE}"))
    near = difflib.get_close_matches(folder.name, runs, n=1, cutoff=0.6)
    there = f"{folder.parent} has {', '.join(runs[:8])}" if runs else f"{folder.parent} has no run"
    remedy = f"write --name {near[0]}, or leave --resume out" if near else "leave --resume out"
    raise CheckpointError(f"--resume: {folder} holds no run to go on with; {there}; {remedy} to start it")


def has_learned(folder: Path, records: Sequence[Record]) -> bool:
    """True when the run in the folder finished a step or saved a checkpoint."""
    return any(isinstance(record, StepRecord) for record in records) or bool(newest_checkpoint(folder / CHECKPOINTS))


def forget_start(folder: Path) -> None:
    """Remove the records of a start that learned nothing, and its folder where nothing else lies in it."""
    forget_records(folder)
    (folder / LIVE_FILE).unlink(missing_ok=True)
    for part in (folder / LIVE_FILE).parent, folder:
        with contextlib.suppress(OSError):  # absent, or holds something else
            part.rmdir()
