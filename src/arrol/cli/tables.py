"""A comparison on a terminal: one line per arm where that fits, else one column per arm, in blocks that fit."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from arrol.reports.tables import Row, comparison_notes, display_rows

PADDING = 3
"""Border and blanks of a column; a table has one border more."""
MIN_HEADING = 10
"""Headings are broken at blanks down to this width."""


def print_rows(console: Console, title: str, rows: Sequence[Row]) -> None:
    """Rows of :func:`arrol.reports.tables.comparison_rows` with their notes; the table is never wider than the
    console if an arm and the headings fit into it."""
    shown = display_rows(rows)
    heads = list(shown[0])
    widths = [max(MIN_HEADING, *(len(row[head]) for row in shown)) for head in heads]
    broken = [textwrap.fill(head, width, break_long_words=False) for head, width in zip(heads, widths, strict=True)]
    columns = [[head, *(row[old] for row in shown)] for head, old in zip(broken, heads, strict=True)]
    if _width(columns) <= console.width:
        console.print(_table(title, columns))
    else:
        _print_upright(console, title, heads, rows, shown)
    if len(rows) > 1:
        for note in comparison_notes(rows):
            console.print(note)


def _print_upright(
    console: Console, title: str, heads: list[str], rows: Sequence[Row], shown: list[dict[str, str]]
) -> None:
    """Headings on the left; arms without a run share one line below."""
    ran = [list(text.values()) for row, text in zip(rows, shown, strict=True) if row["seeds"]]
    while ran:
        block = [heads, ran.pop(0)]
        while ran and _width([*block, ran[0]]) <= console.width:
            block.append(ran.pop(0))
        console.print(_table(title, block))
        title = ""
    absent = [row["arm"] for row in rows if not row["seeds"]]
    if absent:
        console.print(f"Controls not run: {', '.join(absent)}.")


def _table(title: str, columns: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title or None, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column[0], justify="right" if number else "left", overflow="fold")
    for line in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*line)
    return table


def _width(columns: Sequence[Sequence[str]]) -> int:
    return 1 + sum(PADDING + max(len(line) for cell in column for line in cell.splitlines()) for column in columns)
