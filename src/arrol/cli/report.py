"""``arrol report``: what the records of runs say, as Markdown, plots and one HTML page."""

from __future__ import annotations

import json
from pathlib import Path

from arrol.records.store import find_runs, load_run
from arrol.reports.page import write_report
from arrol.reports.tables import comparison_rows, markdown_table


def run_report(paths: list[str], out: str | None, *, as_json: bool) -> int:
    rows = comparison_rows([load_run(run) for run in find_runs(paths)])
    report = write_report(paths, Path(out) if out else Path(paths[0]) / "report")
    print(json.dumps(rows, indent=1) if as_json else markdown_table(rows))
    if not as_json:
        print(f"\nreport: {report.markdown} and {report.html}")
    return 0
