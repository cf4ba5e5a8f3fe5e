"""Rows of a file, a folder, a preset or a hub name."""

from __future__ import annotations

import os
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from arrol.errors import DataError, MissingExtraError
from arrol.records.tables import SUFFIXES, table_rows, table_stem, table_suffix
from arrol.tasks.presets import PRESETS, preset_of

HUB_LIMIT_S = 2.5
"""A hub that does not answer for so long cannot be reached."""


class SplitMissing(DataError):
    """The source was found, the split was not."""


def has_splits(source: str) -> bool:
    """True when the source may have a split for evaluation."""
    preset = preset_of(source)
    return not Path(source).is_file() and not (preset and preset.only_split)


def records(source: str, split: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """The rows of a split with their places, which an error names; a single file is one split of any name."""
    path = Path(source)
    if path.is_file():
        return _file_records([path])
    if path.is_dir():
        return _file_records(_split_files(path, split))
    preset = preset_of(source)
    if preset is None and (
        table_suffix(path) in SUFFIXES or source.count("/") != 1 or source.startswith((".", "~", "/"))
    ):
        raise DataError(
            f"source: {source!r} is no file or folder; give a path, owner/name on the hub,"
            f" or one of {', '.join(PRESETS)}"
        )
    hub = preset.hub if preset else source
    rows = _hub_records(hub, (preset and preset.only_split) or split)
    return ((f"{hub} row {number}", row) for number, row in enumerate(rows, 1))


def _split_files(folder: Path, split: str) -> list[Path]:
    """``train.jsonl``, ``train-00000-of-00002.parquet`` and the like, at any depth."""
    files = sorted(path for path in folder.rglob("*") if table_suffix(path) in SUFFIXES)
    stems = {path: table_stem(path) for path in files}
    chosen = [path for path in files if stems[path] == split or stems[path].startswith((f"{split}-", f"{split}_"))]
    if not chosen:
        names = ", ".join(path.name for path in files[:8]) or "nothing readable"
        raise SplitMissing(f"split: {split!r} is not in {str(folder)!r}; the folder holds {names}")
    return chosen


def _file_records(files: list[Path]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    return (placed for file in files for placed in table_rows(file, field="source"))


def _hub_records(hub: str, split: str) -> Iterable[Mapping[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets: not installed; pip install datasets, or give a local file") from error
    name, _, subset = hub.partition(":")
    was_offline = datasets.config.HF_HUB_OFFLINE
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    is_silent = not was_offline and not hub_answers(endpoint)
    datasets.config.HF_HUB_OFFLINE = was_offline or is_silent  # then only a cached copy is read, without five retries
    try:
        return datasets.load_dataset(name, subset or None, split=split)
    except (OSError, ValueError) as error:
        reason = f"{endpoint} does not answer, and no copy is cached" if is_silent else _reason(error)
        kind = SplitMissing if "split" in reason.lower() else DataError
        raise kind(
            f"source: {hub!r} split {split!r} cannot be loaded ({reason}); give a local file or folder, with the "
            "task's preset for its columns"
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline


@lru_cache(maxsize=4)
def hub_answers(endpoint: str, limit_s: float = HUB_LIMIT_S) -> bool:
    """True when something answers at the address within the limit, also with an error."""
    answers = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=limit_s).close()
        except urllib.error.HTTPError:
            pass
        except OSError as error:
            if not (isinstance(error, urllib.error.URLError) and isinstance(error.reason, ssl.SSLError)):
                return
        answers.append(True)

    thread = threading.Thread(target=ask, daemon=True)  # the look-up of a name has no time limit of its own
    thread.start()
    thread.join(limit_s)
    return bool(answers)


def _reason(error: Exception) -> str:
    """The first line of a foreign error, short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
