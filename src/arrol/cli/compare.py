"""``arrol compare``: several arms on the same prompts and seeds, then one table and one report."""

from __future__ import annotations

from pathlib import Path

from arrol.cli.output import run_console
from arrol.cli.report import report_after
from arrol.cli.tables import show_rows
from arrol.cli.train import EXIT_STOPPED, previous_record, run_folder, say_findings, train_one
from arrol.configs.run import CompareConfig, RunConfig, planned_runs
from arrol.errors import DataError
from arrol.records.store import read_run
from arrol.reports.tables import comparison_rows
from arrol.training.policy import resolve_device
from arrol.training.room import require_run_room


def run_compare(compare: CompareConfig, *, resume: bool, live: bool, as_json: bool) -> int:
    """Train every arm of a seed before the next seed, so that a drift of the machine's speed meets all arms alike.
    Finished runs are not repeated."""
    console = run_console(as_json=as_json)
    plan = planned_runs(compare)
    for _, config in plan:  # refuse before the first run
        previous_record(config, resume=resume)
        if not _is_finished(config):
            require_run_room(config, resolve_device(config.device))
    for arm, config in plan:
        if _is_finished(config):
            console.print(f"{config.name}: finished before")
            continue
        end, stop_requested = train_one(config, arm=arm, resume=resume, console=console, live=live)
        say_findings(console, config)
        if stop_requested:
            console.print(f"stopped at step {end.step} of {config.name}; go on with --resume")
            return EXIT_STOPPED
    folders = [run_folder(config) for _, config in plan]
    show_rows(console, compare.name, comparison_rows([read_run(folder) for folder in folders]), as_json=as_json)
    report_after(folders, Path(plan[0][1].out_dir), console)
    return 0


def _is_finished(config: RunConfig) -> bool:
    """Whether the config's folder holds a finished run, which ``previous_record`` found to have this config."""
    try:
        end = read_run(run_folder(config)).end
    except DataError:  # nothing there, or killed before its first row
        return False
    return end is not None and end.outcome == "finished" and end.step >= config.training.steps
