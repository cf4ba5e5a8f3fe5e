"""Rows of a file, a folder, a preset or a hub name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from arrol.errors import DataError, MissingExtraError
from arrol.hub import cached_only
from arrol.records.tables import SUFFIXES, table_rows, table_stem, table_suffix
from arrol.tasks.presets import PRESETS, preset_of


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
    hub = _hub_name(source)
    rows = _hub_records(hub, (preset and preset.only_split) or split)
    return ((f"{hub} row {number}", row) for number, row in enumerate(rows, 1))


def require_source(source: str) -> None:
    """DataError where a source can be read neither from a path, nor from the hub, nor from its cache."""
    if not Path(source).exists():
        _is_cached_only(_hub_name(source))


def _hub_name(source: str) -> str:
    """``owner/name`` or ``owner/name:subset`` of a preset, or of a source that is no path."""
    preset = preset_of(source)
    if preset is None and (
        table_suffix(Path(source)) in SUFFIXES or source.count("/") != 1 or source.startswith((".", "~", "/"))
    ):
        raise DataError(
            f"source: {source!r} is no file or folder; give a path, owner/name on the hub,"
            f" or one of {', '.join(PRESETS)}"
        )
    return preset.hub if preset else source


def _is_cached_only(hub: str) -> bool:
    return cached_only("datasets", hub.partition(":")[0], f"source: {hub!r} cannot be loaded")


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
    datasets.config.HF_HUB_OFFLINE = was_offline or _is_cached_only(hub)  # then without five retries
    try:
        return datasets.load_dataset(name, subset or None, split=split)
    except (OSError, ValueError) as error:
        reason = _reason(error)
        kind = SplitMissing if "split" in reason.lower() else DataError
        raise kind(
            f"source: {hub!r} split {split!r} cannot be loaded ({reason}); give a local file or folder, with the "
            "task's preset for its columns"
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline


def _reason(error: Exception) -> str:
    """The first line of a foreign error, short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
