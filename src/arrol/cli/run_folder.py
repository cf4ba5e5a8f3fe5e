"""A run's folder: what ``--resume`` needs in it, and a start that learned nothing does not hold its name.

A start has learned nothing while its records have no row of a step and it has no checkpoint: it failed, or was killed,
before the end of its first step. The next start takes its place, with any config.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Sequence
from pathlib import Path

from arrol.cli.live import LIVE_FILE
from arrol.errors import CheckpointError
from arrol.records.folder import forget_records
from arrol.records.lock import LOCK_FILE
from arrol.records.schema import Record, StepRecord
from arrol.records.store import RECORDS_FILE
from arrol.training.checkpoint import newest_checkpoint

CHECKPOINTS = "checkpoints"


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
    for name in (LIVE_FILE, LOCK_FILE):
        (folder / name).unlink(missing_ok=True)
    for part in (folder / LIVE_FILE).parent, folder:
        with contextlib.suppress(OSError):  # absent, or holds something else
            part.rmdir()
