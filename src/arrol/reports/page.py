"""The report of one run or of a comparison: Markdown, PNG plots, and one self-contained HTML page.

Names, configs, commands and devices are escaped, and the page's own policy forbids scripts and requests, so no
name of a run can put code into a report.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from arrol.records.diagnosis import final_findings
from arrol.records.store import Run, find_runs, load_run
from arrol.reports.curves import runs_by_arm
from arrol.reports.plots import Plot, draw_plots, write_whole
from arrol.reports.tables import (
    ABSENT,
    Row,
    comparison_notes,
    comparison_rows,
    display_rows,
    escape_markdown,
    markdown_tables,
)

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --line: #d5d5d5; --soft: #f4f4f2; --warn: #8a4b00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #16181b; --line: #3a3d42; --soft: #1f2226; --warn: #f0b35c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
thead th { background: var(--soft); vertical-align: bottom; white-space: normal; min-width: 5rem;
  overflow-wrap: normal; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--soft); }
.facts td { text-align: left; white-space: normal; min-width: 6rem; } td.absent { opacity: .55; }
.notes { font-size: .85rem; } .warn { color: var(--warn); font-weight: 600; }
figure { margin: 1rem 0; } img { width: 100%; max-width: 1200px; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: .4rem; display: block; }
pre { overflow-x: auto; background: var(--soft); padding: .8rem; border-radius: .4rem; font-size: .8rem; }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Report:
    """Files of a report, and the rows of its table."""

    markdown: Path
    html: Path
    pngs: tuple[Path, ...]
    rows: list[Row]


def write_report(paths: Iterable[str | Path], out_dir: str | Path, *, target: float | None = None) -> Report:
    """Report on run and comparison folders into ``out_dir``: ``report.md``, ``report.html`` and ``plots/*.png``.

    ``target`` is the accuracy that costs are counted to; by default 90% of what the first arm gained.
    """
    runs = [load_run(path) for path in find_runs(paths)]
    runs = [run for members in runs_by_arm(runs).values() for run in members]
    out_dir, rows = Path(out_dir), comparison_rows(runs, target)
    plots = draw_plots(runs, out_dir / "plots")
    warnings, title = report_warnings(runs), report_title(runs)
    markdown = markdown_report(title, runs, rows, plots, warnings)
    page = html_report(title, runs, rows, plots, warnings)
    files = [
        write_whole(out_dir / name, partial(Path.write_text, data=text, encoding="utf-8"))
        for name, text in (("report.md", markdown), ("report.html", page))
    ]
    return Report(files[0], files[1], tuple(plot.path for plot in plots), rows)


def report_title(runs: Sequence[Run]) -> str:
    """Title that names the arms."""
    arms = list(runs_by_arm(runs))
    return f"arrol: {arms[0]}" if len(arms) == 1 else f"arrol: {arms[0]} against {', '.join(arms[1:])}"


def report_warnings(runs: Sequence[Run]) -> list[str]:
    """Sentences about what weakens the comparison: commits, devices, lengths, runs without an end."""
    found = []
    if len({run.run.commit for run in runs}) > 1:
        found.append("The runs come from different commits: differences may be those of the code.")
    if any(run.run.dirty for run in runs):
        found.append("Some runs come from code that differs from its commit, or whose commit is unknown.")
    if len({run.run.device for run in runs}) > 1:
        found.append("The runs come from different devices: do not compare their times.")
    lasts = {run.steps[-1].step if run.steps else 0 for run in runs}
    if len(lasts) > 1:
        found.append(f"The runs have different lengths ({min(lasts)} to {max(lasts)} steps).")
    for run in runs:
        if run.end is None or run.end.outcome != "finished":
            how = "has no end: killed, or still running" if run.end is None else f"{run.end.outcome} {run.end.message}"
            found.append(f"{run_label(run)}: {how.strip()}.")
    return found + _idle_runs(runs)


def _idle_runs(runs: Sequence[Run]) -> list[str]:
    """Why runs learned nothing; runs of which the same is true share a sentence."""
    labels: dict[str, list[str]] = {}
    for run in runs:
        for finding in final_findings([step.metrics for step in run.steps]):
            labels.setdefault(finding.text, []).append(run_label(run))
    return [
        f"{'every run' if len(names) == len(runs) > 1 else '; '.join(names)}: {text}." for text, names in labels.items()
    ]


def run_label(run: Run) -> str:
    """Arm and seed in words."""
    return f"{run.run.arm}, seed {run.run.seed}"


def markdown_report(
    title: str, runs: Sequence[Run], rows: Sequence[Row], plots: Sequence[Plot], warnings: Sequence[str]
) -> str:
    """Markdown of tables, notes, plots by relative path, provenance and configs."""
    parts = [f"# {escape_markdown(title)}\n", markdown_tables(rows)]
    notes = [f"**{escape_markdown(text)}**" for text in warnings]
    notes += [escape_markdown(note) for note in comparison_notes(rows)]
    parts.append("".join(f"- {note}\n" for note in notes))
    parts += [f"## {plot.title}\n\n![{plot.title}](plots/{plot.path.name})\n" for plot in plots]
    heads, *cells = provenance_cells(runs)
    lines = [heads, [":--"] * len(heads)] + [[escape_markdown(cell) for cell in line] for line in cells]
    parts.append("## Where the numbers come from\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines))
    for label, text in _configs(runs):  # no line of JSON can close the fence
        parts.append(f"### Config of {escape_markdown(label)}\n\n```json\n{text}\n```\n")
    return "\n".join(parts)


def html_report(
    title: str, runs: Sequence[Run], rows: Sequence[Row], plots: Sequence[Plot], warnings: Sequence[str]
) -> str:
    """HTML of the same on one page: plots as base64, no script, no request."""
    shown = display_rows(rows)
    heads = list(shown[0]) if shown else []
    items = "".join(f'<li class="warn">{html.escape(text)}</li>' for text in warnings)
    items += "".join(f"<li>{html.escape(note)}</li>" for note in comparison_notes(rows))
    figures = "".join(
        f"<h2>{html.escape(plot.title)}</h2>\n<figure>{html_image(plot.title, plot.path)}</figure>\n" for plot in plots
    )
    facts_heads, *facts = provenance_cells(runs)
    configs = "".join(
        f"<details><summary>Config of {html.escape(label)}</summary><pre>{html.escape(text)}</pre></details>\n"
        for label, text in _configs(runs)
    )
    return whole_page(
        title,
        f"{html_table(heads, [list(row.values()) for row in shown])}\n"
        f'<ul class="notes">{items}</ul>\n{figures}<h2>Where the numbers come from</h2>\n'
        f"{html_table(facts_heads, facts, 'facts')}\n{configs}",
    )


def whole_page(title: str, body: str) -> str:
    """A page of its own: no script, no request. ``body`` is HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{html.escape(title)}</h1>\n"
        f"{body}</body>\n</html>\n"
    )


def provenance_cells(runs: Sequence[Run]) -> list[list[str]]:
    """Headings, then one line per run."""
    cells = [["run", "commit", "started", "ended", "device", "versions", "command"]]
    for run in runs:
        facts = run.run
        versions = ", ".join(f"{name} {version}" for name, version in sorted(facts.versions.items()))
        ended = "no end recorded" if run.end is None else f"{run.end.outcome} after step {run.end.step}"
        if facts.segment:
            ended += f", resumed {facts.segment} time{'s' * (facts.segment > 1)}"
        commit = facts.commit[:12] + (" (dirty)" if facts.dirty and facts.commit != "unknown" else "")
        label = f"{run_label(run)} ({facts.run_id})"
        cells.append([label, commit, facts.started_at, ended, facts.device, versions, facts.command])
    return cells


def _configs(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """One resolved config per arm, of its first seed."""
    firsts = [members[0] for members in runs_by_arm(runs).values()]
    return [(run_label(run), json.dumps(run.run.config, indent=2, sort_keys=True)) for run in firsts]


def html_table(heads: Sequence[str], lines: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    """A table that scrolls by itself; ``kind`` is ``numbers`` or ``facts``."""
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in heads)
    body = ""
    for line in lines:
        cells = "".join(
            f'<td class="absent">{html.escape(text)}</td>' if text == ABSENT else f"<td>{html.escape(text)}</td>"
            for text in line
        )
        body += f"<tr>{cells}</tr>\n"
    table = f'<table class="{kind}">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>'
    return f'<div class="scroll" tabindex="0">{table}</div>'


def html_image(title: str, path: Path) -> str:
    """A picture inside the page."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'
