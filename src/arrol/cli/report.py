"""``arrol report``: records of runs as Markdown, plots and one HTML page; ``train`` and ``compare`` end with one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from arrol.cli.tables import show_rows
from arrol.records.store import find_runs
from arrol.reports.page import Report, write_report


def run_report(paths: list[str], out: str | None, *, as_json: bool) -> int:
    first = Path(paths[0])
    folder = Path(out) if out else (first.parent if first.is_file() else first) / "report"
    report = write_report(find_runs(paths), folder)
    console = Console(stderr=as_json, markup=False, highlight=False)
    show_rows(console, "", report.rows, as_json=as_json)
    say_report(report, console)
    return 0


def report_after(runs: Sequence[Path], of: Path, console: Console) -> None:
    """Report on runs that have just ended, into ``of / "report"``, and print its place, or in one line why there is
    none: their records are complete, so a report that fails does not fail them."""
    try:
        report = write_report(runs, of / "report")
    except Exception as error:  # whatever drawing and the disk may raise
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        console.print(f"report: not written ({reason}); the records are: arrol report {of} makes it", soft_wrap=True)
    else:
        say_report(report, console)


def say_report(report: Report, console: Console) -> None:
    """Print where the report is."""
    console.print(f"report: {report.markdown} and {report.html}", soft_wrap=True)
