"""Folders that a command writes to, made and refused before anything is computed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arrol.errors import ConfigError
from arrol.records.lock import Claim


def require_place(option: str, folder: Path) -> None:
    """ConfigError naming the option where the folder could not be made or written; nothing is made."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise ConfigError(f"{option} = {str(folder)!r}: {there} is a file; choose another folder")
    if not os.access(there, os.W_OK):
        raise ConfigError(f"{option} = {str(folder)!r}: nothing can be written in {there}; choose another folder")


def require_writable(option: str, folder: Path) -> None:
    """Make the folder; ConfigError naming the option where that fails or nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{option} = {str(folder)!r}: cannot be made ({error.strerror}); choose another folder"
        ) from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{option} = {str(folder)!r}: nothing can be written there; choose another folder")


@contextmanager
def reserved(option: str, path: Path) -> Iterator[None]:
    """Hold a file or folder that a long command writes at its end. CheckpointError, which names the option, while
    another process holds it; ConfigError where one has written it since this command looked."""
    with Claim() as claim:
        claim.take_file(path, option)
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise ConfigError(f"{option} = {str(path)!r}: exists since a moment ago; choose another name")
        yield


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A hidden name beside ``path`` for a file or folder, which becomes ``path`` at the end of the block and is removed
    when the block fails: half a result never has its name. ``path`` must be absent or an empty folder."""
    partial = path.with_name(f".partial-{path.name}")
    _remove(partial)
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        _remove(partial)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
