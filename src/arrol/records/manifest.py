"""Sizes and SHA-256 sums of files, so that damage is named before anything is loaded.

A checkpoint's ``manifest.json`` has the sums of its files, and of what the run's own files held at that moment: so many
first bytes of those that grow, and each file of texts::

    {"version": 1,
     "files": {"policy/config.json": [812, "5d41..."], "state.json": [4096, "9b74..."]},
     "run": {"records.jsonl": [9120, "77de..."], "texts/00000003.json.gz": [633, "0cc1..."]},
     "sha256": "..."}

The last one is the sum of the others, so a damaged manifest is told from a damaged file. A run that has ended has one
in its own folder, of all that it wrote.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MANIFEST = "manifest.json"
GROWING = ".jsonl"
"""End of the names of files that may be longer than their sum says."""
CHUNK = 2**20
THREADS = 8
"""Files that are read at a time; hashing lets other threads run."""


class Sum(NamedTuple):
    """Of a file, or of its first bytes."""

    size: int
    """Bytes."""
    sha256: str


class Manifest(NamedTuple):
    """Sums by path, relative to the checkpoint and to its run."""

    files: Mapping[str, Sum]
    run: Mapping[str, Sum]


class GrowingSum:
    """Sum of a file to which lines are appended; each byte is read once."""

    def __init__(self, path: Path) -> None:
        self._path, self._size, self._hash = path, 0, hashlib.sha256()

    def now(self) -> Sum:
        """Of everything that is in the file; OSError where it cannot be read."""
        with self._path.open("rb", buffering=0) as file:
            file.seek(self._size)
            for chunk in _chunks(file):
                self._hash.update(chunk)
                self._size += len(chunk)
        return Sum(self._size, self._hash.hexdigest())


def file_sum(path: Path, size: int | None = None) -> Sum:
    """Of a file, or of its first ``size`` bytes, which may be fewer; OSError where it cannot be read."""
    read, digest = 0, hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for chunk in _chunks(file, size):
            digest.update(chunk)
            read += len(chunk)
    return Sum(read, digest.hexdigest())


def _chunks(file: FileIO, size: int | None = None) -> Iterator[memoryview]:
    """The next bytes of a file, at most ``size``; a chunk is read over by the next.

    One buffer, outside the heap: a new object for each chunk leaves holes in the heap of each thread, and a training
    grew by a MiB at each of its checkpoints.
    """
    left, buffer = CHUNK if size is None else size, memoryview(mmap.mmap(-1, CHUNK))
    while read := file.readinto(buffer[: min(CHUNK, left)]):
        yield buffer[:read]
        left = CHUNK if size is None else left - read


def value_sum(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def arrays_sum(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of named arrays, of their types and shapes too."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def write_manifest(folder: Path, run: Mapping[str, Sum]) -> None:
    """Write the manifest of everything below ``folder``; OSError when the disk refuses."""
    names = sorted({path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST})
    with ThreadPoolExecutor(THREADS) as threads:
        sums = threads.map(lambda name: file_sum(folder / name), names)
        _write(folder / MANIFEST, dict(zip(names, sums, strict=True)), run)


def write_run_manifest(run: Path, names: Iterable[str]) -> None:
    """Write the manifest of a run that has ended, of these files where they exist; OSError when the disk refuses."""
    part = run / f"{MANIFEST}.part"
    _write(part, {}, {name: file_sum(run / name) for name in names if (run / name).is_file()})
    part.replace(run / MANIFEST)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a checkpoint, None where there is none; ValueError for a damaged one."""
    try:
        value = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{MANIFEST} cannot be read") from error
    if not isinstance(value, dict) or value.pop("sha256", None) != value_sum(value):
        raise ValueError(f"{MANIFEST} is not what was written")
    return Manifest(*(_sums(value.get(key)) for key in ("files", "run")))


def damage_below(folder: Path, sums: Mapping[str, Sum], parts: Sequence[str] = ("",)) -> list[str]:
    """What is wrong with the files below ``folder`` whose names begin with one of ``parts``, a sentence each."""
    names = [name for name in sorted(sums) if name.startswith(tuple(parts))]
    with ThreadPoolExecutor(THREADS) as threads:
        return [found for found in threads.map(lambda name: _damage(folder / name, name, sums[name]), names) if found]


def run_damage(run: Path, names: Iterable[str]) -> list[str]:
    """What is wrong with the run's own files, as far as the newest manifest tells that can be read: that of its end, or
    of a checkpoint; empty without one."""
    checkpoints = sorted((run / "checkpoints").glob("step-*"), key=lambda path: (len(path.name), path.name))
    for folder in (run, *checkpoints[::-1]):
        try:
            manifest = read_manifest(folder)
        except ValueError:
            continue
        if manifest:
            return damage_below(run, {name: manifest.run[name] for name in names if name in manifest.run})
    return []


def _sums(value: Any) -> dict[str, Sum]:
    """The sums of a part of a manifest; ValueError for anything else."""
    try:
        found = {name: Sum(int(size), str(sha256)) for name, (size, sha256) in value.items()}
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise ValueError(f"{MANIFEST} has other fields than were written") from None
    return found


def _write(path: Path, files: Mapping[str, Sum], run: Mapping[str, Sum]) -> None:
    value = {"version": 1, "files": dict(files), "run": dict(run)}
    path.write_text(json.dumps({**value, "sha256": value_sum(value)}, indent=1), "utf-8")


def _damage(path: Path, name: str, wanted: Sum) -> str:
    try:
        found = file_sum(path, wanted.size)
    except FileNotFoundError:
        return f"{name} is absent"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    if found.size < wanted.size:
        return f"{name} has {found.size} of its {wanted.size} bytes"
    if name.endswith(GROWING):
        return "" if found == wanted else f"{name} is not what was written, in its first {wanted.size} bytes"
    return "" if found == wanted and path.stat().st_size == wanted.size else f"{name} is not what was written"
