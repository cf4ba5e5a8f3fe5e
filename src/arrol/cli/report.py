"""``arrol report``: records of runs as Markdown, plots and one HTML page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from arrol.cli.tables import show_rows
from arrol.records.store import find_runs
from arrol.reports.page import write_report


def run_report(paths: list[str], out: str | None, *, as_json: bool) -> int:
    first = Path(paths[0])
    folder = Path(out) if out else (first.parent if first.is_file() else first) / "report"
    report = write_report(find_runs(paths), folder)
    console = Console(stderr=as_json, markup=False, highlight=False)
    show_rows(console, "", report.rows, as_json=as_json)
    console.print(f"report: {report.markdown} and {report.html}", soft_wrap=True)
    return 0
