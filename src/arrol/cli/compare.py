"""``arrol compare``: the same prompts and seeds under several rules, then one table and one report."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from arrol.cli.train import run_folder, train_one
from arrol.configs.run import arm_config, load_compare
from arrol.records.store import find_runs, load_run
from arrol.reports.page import write_report
from arrol.reports.tables import comparison_rows, display_rows


def run_compare(path: str, flags: list[str], *, resume: bool, as_json: bool) -> int:
    """Seeds outside, arms inside, so that a drifting machine speed touches all arms alike. Finished runs are not
    repeated."""
    compare = load_compare(path, flags)
    console = Console(stderr=as_json)
    folder = Path(str(compare.run.get("out_dir", "runs"))) / compare.name
    for seed in compare.seeds:
        for arm in compare.arms:
            config = arm_config(compare, arm, seed)
            if resume and _is_finished(run_folder(config)):
                console.print(f"{config.name}: finished before", highlight=False)
                continue
            end = train_one(config, arm=arm.name, resume=resume, console=console)
            if end.outcome == "stopped":
                console.print(f"stopped at step {end.step} of {config.name}; go on with --resume", highlight=False)
                return 130
    order = [arm.name for arm in compare.arms]
    runs = sorted((load_run(run) for run in find_runs([folder])), key=lambda run: order.index(run.run.arm))
    rows = comparison_rows(runs)
    report = write_report([folder], folder / "report")
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        _print_table(console, compare.name, display_rows(rows))
    console.print(f"report: {report.markdown} and {report.html}", highlight=False, soft_wrap=True)
    return 0


def _is_finished(folder: Path) -> bool:
    if not (folder / "records.jsonl").exists():
        return False
    end = load_run(folder).end
    return end is not None and end.outcome == "finished"


def _print_table(console: Console, title: str, rows: list[dict[str, str]]) -> None:
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
