"""The files of a run in its folder: what a resumed run reads and cuts, and what a new start removes or moves aside."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from arrol.records.manifest import MANIFEST, Sum, write_run_manifest
from arrol.records.schema import RunRecord, decode
from arrol.records.store import RECORDS_FILE, ROLLOUTS_FILE
from arrol.records.texts import forget_texts, step_file, text_steps

NO_RECORDS = MappingProxyType({name: Sum(0, "") for name in (RECORDS_FILE, ROLLOUTS_FILE)})
"""Sums of a run without a row."""


def readable_runs(folder: Path) -> list[RunRecord]:
    """Rows that open a segment, of all lines that can be read. The checkpoint that is resumed tells of damage."""
    path, found = folder / RECORDS_FILE, list[RunRecord]()
    for line in path.read_bytes().split(b"\n") if path.is_file() else []:
        with suppress(ValueError, RecursionError):  # DataError is a ValueError
            row = decode(json.loads(line))
            found += [row] if isinstance(row, RunRecord) else []
    return found


def cut_records(folder: Path, held: Mapping[str, Sum]) -> None:
    """Cut records and rollouts to what they held at a checkpoint: rows after it are computed again. A file without a
    sum stays as it is. OSError where the folder cannot be written."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in (RECORDS_FILE, ROLLOUTS_FILE):
        if name in held and (folder / name).is_file() and (folder / name).stat().st_size > held[name].size:
            with (folder / name).open("r+b") as file:
                file.truncate(held[name].size)
                os.fsync(file.fileno())


def seal_records(folder: Path) -> None:
    """Note the sums of everything that a run has recorded, at its end, so that a reader is told of damage. Left out
    where the disk refuses."""
    names = (RECORDS_FILE, ROLLOUTS_FILE, *(step_file(Path(), step).as_posix() for step in text_steps(folder)))
    with suppress(OSError):
        write_run_manifest(folder, names)


def forget_records(folder: Path) -> None:
    """Remove the records of a start that learned nothing."""
    for name in (MANIFEST, RECORDS_FILE, ROLLOUTS_FILE):
        (folder / name).unlink(missing_ok=True)
    forget_texts(folder)


def moved_aside(folder: Path) -> Path:
    """Give the folder the first free name of ``NAME-1``, ``NAME-2``, ...; the new path. OSError when it cannot."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return folder.rename(aside)
