"""Rows handed over in Python as JSON lines: a list of dicts, a Dataset, a data frame, or several splits of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from arrol.errors import DataError


def is_rows(value: Any) -> bool:
    """True for what :func:`rows_text` reads."""
    return isinstance(value, Mapping | list | tuple) or hasattr(value, "iterrows") or hasattr(value, "column_names")


def rows_text(rows: Any) -> tuple[str, dict[str, str]]:
    """A name made of the content, and JSON lines per split; ``rows.jsonl`` for one split, a folder for several.

    DataError where there are no rows, or one is no dict of what JSON holds.
    """
    splits = dict(rows) if isinstance(rows, Mapping) else {"": rows}
    texts = {split: _lines(part, f"task[{split!r}]" if split else "task") for split, part in splits.items()}
    for split in texts:
        if isinstance(rows, Mapping) and not (isinstance(split, str) and split.isidentifier()):
            raise DataError(f"task: {split!r} is no name of a split; give rows under names such as 'train' and 'test'")
    if not texts:
        raise DataError("task = {}: no rows; give a list of dicts, or such lists under the names of splits")
    digest = hashlib.blake2b(json.dumps(texts, sort_keys=True).encode(), digest_size=6).hexdigest()
    return (f"rows-{digest}" if isinstance(rows, Mapping) else f"rows-{digest}.jsonl"), texts


def _lines(rows: Any, field: str) -> str:
    if hasattr(rows, "iterrows"):  # a data frame
        rows = rows.to_dict("records")
    if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Mapping):
        raise DataError(f"{field} = {type(rows).__name__}: no rows; give a list of dicts with a prompt and an answer")
    lines = [_line(row, f"{field} row {number}") for number, row in enumerate(rows, 1)]
    if not lines:
        raise DataError(f"{field} = []: no rows; give a list of dicts with a prompt and an answer")
    return "".join(lines)


def _line(row: Any, where: str) -> str:
    if not isinstance(row, Mapping):
        raise DataError(f"{where} is {str(row)[:40]!r}, no dict; give the columns by name, such as prompt and answer")
    cells = {}
    for name, cell in row.items():
        value = cell.tolist() if hasattr(cell, "tolist") else cell  # of numpy
        try:
            cells[str(name)] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):
            raise DataError(
                f"{where}: column {str(name)!r} holds {type(cell).__name__} {str(cell)[:40]!r}, which no JSON file can;"
                " leave it out, or give texts and numbers"
            ) from None
    return json.dumps(cells, ensure_ascii=False) + "\n"
