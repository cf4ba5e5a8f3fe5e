"""``arrol report``: what the records of runs say, as Markdown, plots and one HTML page."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from arrol.cli.tables import print_rows
from arrol.records.store import find_runs
from arrol.reports.page import write_report


def run_report(paths: list[str], out: str | None, *, as_json: bool) -> int:
    first = Path(paths[0])
    folder = Path(out) if out else (first.parent if first.is_file() else first) / "report"
    report = write_report(find_runs(paths), folder)
    console = Console(stderr=as_json, markup=False, highlight=False)
    if as_json:
        print(json.dumps(report.rows, indent=1))
    else:
        print_rows(console, "", report.rows)
    console.print(f"report: {report.markdown} and {report.html}", soft_wrap=True)
    return 0
