"""What the viewer's page asks of a run: its rollouts as columns, in pages, also while the run writes them.

A feed reads what was added to the files since the last look, so a running run is followed at no cost to it. Rows that
a resumed run computed again are left out, as :func:`arrol.records.store.current_records` does. A change of rows that
were shown before begins a new ``epoch``: the page starts over.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from pydantic_core import from_json

from arrol.errors import DataError
from arrol.records.schema import EndRecord, Record, RunRecord, StepRecord, decode, require_rollout
from arrol.records.store import RECORDS_FILE, ROLLOUTS_FILE, judges_by_function, segment_limits, success_label
from arrol.records.texts import text_steps

PAGE = 20_000
"""Rollouts of a page."""
CHUNK = 2**23
"""Bytes read at a look, so that the first page of a long run is there at once."""
NUMBERS = ("step", "group", "index", "level", "completion_tokens", "reward", "score", "quality", "survival")
WORDS = ("prompt_key", "finish_reason", "reason", "dropped")
"""Columns with few distinct values: sent as a table and positions in it."""

Row = Mapping[str, Any]
T = TypeVar("T")


class GrowingRows:
    """Rows of a file of JSON lines that grows."""

    def __init__(self, path: Path) -> None:
        self.path, self._offset, self._identity = path, 0, 0
        self._last = b""
        """The line in front of the offset."""
        self.has_more = False
        """The last look did not reach the end of the file."""

    def rows(self, most: int = -1) -> tuple[list[Any], bool]:
        """Rows of the lines added since the last call, ``most`` bytes or one line, and whether the file is another one
        than then; none where it is absent. DataError, at every call, where it cannot be read."""
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                file.seek(self._offset - len(self._last))
                is_same = self._identity in (0, status.st_ino) and file.read(len(self._last)) == self._last
                self._identity = status.st_ino
                if not is_same:  # a resumed run has cut it
                    self._offset, self._last = 0, b""
                file.seek(self._offset)
                data = file.read(most)
                if most > 0 and len(data) == most:
                    data += file.readline()
        except FileNotFoundError:
            return [], False
        except OSError as error:
            raise DataError(f"records = {str(self.path)!r}: cannot be read ({error.strerror})") from None
        whole = data[: data.rfind(b"\n") + 1]
        rows = _parsed(whole, self.path)
        self._offset += len(whole)
        self._last = whole[whole[:-1].rfind(b"\n") + 1 :] or self._last
        self.has_more = self._offset + len(data) - len(whole) < status.st_size
        return rows, not is_same


class RunFeed:
    """One run; safe to ask from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = Lock()
        self._tails = GrowingRows(folder / RECORDS_FILE), GrowingRows(folder / ROLLOUTS_FILE)
        self._records: list[Record] = []
        self._rows: list[Row] = []
        """As written."""
        self._shadows: dict[tuple[int, ...], Row] = {}
        """Segment, step, group and index of a stopped rollout -> how it would have ended; it stands before its row."""
        self._current: list[Row] = []
        """Without the rows that were computed again."""
        self.epoch = 0
        self._is_stale = False
        """Records came that :attr:`_current` does not know."""

    def page(self, epoch: int, start: int) -> dict[str, Any]:
        """Rollouts from ``start`` on, ``PAGE`` at most, with what is known of the run; from 0 where ``epoch`` is not
        the feed's. DataError for a damaged file."""
        with self._lock:
            self._look()
            start = start if epoch == self.epoch else 0
            part = self._current[start : start + PAGE]
            run = self._run()
            return {
                "epoch": self.epoch,
                "start": start,
                "more": start + len(part) < len(self._current) or self._tails[1].has_more,
                "run": self._about(run),
                "columns": _columns(part, run),
            }

    def summary(self) -> dict[str, Any]:
        """Name of the run, its steps, whether it still runs; no rollout is read."""
        with self._lock:
            self._look_at_records()
            return self._about(self._run())

    def _look_at_records(self) -> None:
        rows, is_new = self._tails[0].rows()
        added = _each(decode, rows, self._tails[0].path)
        self._records = ([] if is_new else self._records) + added
        self._is_stale = self._is_stale or is_new or bool(added)

    def _look(self) -> None:
        """Take over what was added to the files."""
        self._look_at_records()
        rows, is_other = self._tails[1].rows(CHUNK)
        _each(require_rollout, rows, self._tails[1].path)
        if is_other:
            self._rows, self._shadows = [], {}
        for row in rows:
            key = row["segment"], row["step"], row["group"], row["index"]
            if row["kind"] == "shadow":
                self._shadows[key] = row
            else:
                self._rows.append({**row, "shadow": self._shadows.pop(key)} if key in self._shadows else row)
        has_resumed = any(isinstance(record, RunRecord) and record.segment for record in self._records)
        if not (self._is_stale or is_other or rows):
            return
        before, self._current = self._current, (_newest(self._rows, self._records) if has_resumed else self._rows)
        if self._current is not before and self._current[: len(before)] != before:
            self.epoch += 1
        self._is_stale = False

    def _run(self) -> RunRecord | None:
        runs = [record for record in self._records if isinstance(record, RunRecord)]
        return max(reversed(runs), key=lambda run: run.segment, default=None)  # the last row of the newest segment

    def _about(self, run: RunRecord | None) -> dict[str, Any]:
        segment = run.segment if run else 0
        ends = [record for record in self._records if isinstance(record, EndRecord) and record.segment == segment]
        steps = [record.step for record in self._records if isinstance(record, StepRecord)]
        training, pruning, sampling = (run.section(name) if run else {} for name in ("training", "pruning", "sampling"))
        return {
            "name": run.name if run else self.folder.name,
            "arm": run.arm if run else "",
            "outcome": ends[-1].outcome if ends else "",
            "step": max(steps, default=0),
            "steps": _of_type(training.get("steps"), 0),
            "rule": _of_type(pruning.get("rule"), ""),
            "probes": [length for length in _of_type(pruning.get("probe_tokens"), list[Any]()) if type(length) is int],
            "limit": _of_type(sampling.get("max_completion_tokens"), 0),
            "texts": _ranges(text_steps(self.folder)),
        }


def _each(act: Callable[[Any], T], rows: list[Any], path: Path) -> list[T]:
    """``act`` of every row; a DataError names the file."""
    try:
        return [act(row) for row in rows]
    except DataError as error:
        raise DataError(f"records = {str(path)!r}: {error}") from None


def _of_type(value: Any, default: T) -> T:
    """The value where it has the type of the default: a record holds any config."""
    return value if type(value) is type(default) else default


def _parsed(lines: bytes, path: Path) -> list[Any]:
    if not lines.strip():
        return []
    try:
        return list(from_json(b"[" + b",".join(line for line in lines.split(b"\n") if line.strip()) + b"]"))
    except ValueError:
        raise DataError(f"records = {str(path)!r}: a line is not JSON; mend or remove that line") from None


def _newest(rows: list[Row], records: list[Record]) -> list[Row]:
    """The rows of the newest segment that computed each rollout."""
    limits = segment_limits(records)
    newest: dict[tuple[int, int, int], Row] = {}
    for row in rows:
        key = row["step"], row["group"], row["index"]
        if row["step"] <= limits.get(row["segment"], math.inf):
            if key in newest and newest[key]["segment"] > row["segment"]:
                continue
            newest.pop(key, None)
            newest[key] = row
    return list(newest.values())


def _columns(rows: list[Row], run: RunRecord | None) -> dict[str, Any]:
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in NUMBERS}
    judges = run is not None and judges_by_function(run)
    for name in WORDS:
        table: dict[str, int] = {}
        columns[name] = {"at": [table.setdefault(row.get(name, ""), len(table)) for row in rows], "of": list(table)}
    columns["would"] = [None if "shadow" not in row else _right(row["shadow"], judges) for row in rows]
    columns["keep"] = [int(row["keep"]) for row in rows]
    columns["right"] = [_right(row, judges) for row in rows]
    return columns


def _right(row: Row, judges: bool) -> int | None:
    return success_label(row["reward"], row.get("success"), by_function=judges)


def _ranges(steps: list[int]) -> list[list[int]]:
    """Ascending numbers as ranges from, to."""
    found: list[list[int]] = []
    for step in steps:
        if found and found[-1][1] == step - 1:
            found[-1][1] = step
        else:
            found.append([step, step])
    return found
