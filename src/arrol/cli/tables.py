"""Tables for a terminal: metrics down, arms across, in blocks that fit."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from arrol.reports.tables import Row, comparison_notes, display_rows

GAP = 2
"""Blanks between two columns, one of them the box's."""
LABEL_WIDTH, CELL_WIDTH = 26, 14
"""Longer labels and cells are broken, at blanks where they have some."""


def print_rows(console: Console, title: str, rows: Sequence[Row]) -> None:
    """Rows of :func:`arrol.reports.tables.comparison_rows`, one column per arm, and their notes."""
    columns = [list(cells.values()) for cells in display_rows(rows, narrow=True)]
    print_columns(console, title, list(display_rows(rows, narrow=True)[0]), columns)
    if len(rows) > 1:
        for note in comparison_notes(rows):
            console.print(note)


def show_rows(console: Console, title: str, rows: Sequence[Row], *, as_json: bool) -> None:
    """The rows as JSON on stdout, or as a table."""
    if as_json:
        print_json(rows)
    else:
        print_rows(console, title, rows)


def print_json(value: object) -> None:
    """Print a value as JSON on stdout; numbers that are not finite become null, since JSON has none."""
    print(json.dumps(_finite(value), indent=1, allow_nan=False))


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_columns(console: Console, title: str, labels: Sequence[str], columns: Sequence[Sequence[str]]) -> None:
    """Print columns side by side; the first cell of each is its heading. Where the console is too narrow, they stand in
    blocks, each with all labels."""
    first = [textwrap.fill(label, LABEL_WIDTH) for label in labels]
    waiting = [
        [cell if len(cell) <= CELL_WIDTH else textwrap.fill(cell, CELL_WIDTH) for cell in column] for column in columns
    ]
    if title:
        console.print(title)
    while waiting:
        block = [first, waiting.pop(0)]
        while waiting and _width([*block, waiting[0]]) <= console.width:
            block.append(waiting.pop(0))
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
        for number, column in enumerate(block):
            table.add_column(column[0], justify="right" if number else "left", vertical="bottom")
        for line in zip(*(column[1:] for column in block), strict=True):
            table.add_row(*line)
        console.print(table)
        console.print()


def _width(columns: Sequence[Sequence[str]]) -> int:
    widths = (max(len(line) for cell in column for line in cell.splitlines() or [""]) for column in columns)
    return sum(widths) + GAP * (len(columns) - 1)
