"""Folders that a command writes to, made and refused before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path

from arrol.errors import ConfigError


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
