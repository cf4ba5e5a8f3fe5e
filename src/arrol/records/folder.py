"""The files of a run in its folder: what a new start removes or moves aside."""

from __future__ import annotations

from pathlib import Path

from arrol.records.store import RECORDS_FILE, ROLLOUTS_FILE
from arrol.records.texts import forget_texts


def forget_records(folder: Path) -> None:
    """Remove the records of a start that learned nothing."""
    for name in (RECORDS_FILE, ROLLOUTS_FILE):
        (folder / name).unlink(missing_ok=True)
    forget_texts(folder)


def moved_aside(folder: Path) -> Path:
    """Give the folder the first free name of ``NAME-1``, ``NAME-2``, ...; the new path. OSError when it cannot."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return folder.rename(aside)
