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
from arrol.records.store import Run, find_runs, read_run
from arrol.reports.curves import runs_by_arm
from arrol.reports.plots import Plot, draw_plots, write_whole
from arrol.reports.shadows import HEADS, shadow_rows
from arrol.reports.summary import Tile, headline, tiles
from arrol.reports.tables import (
    ABSENT,
    Row,
    column_sets,
    comparison_notes,
    comparison_rows,
    display_rows,
    escape_markdown,
    head_notes,
    markdown_tables,
)

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --line: #d5d5d5; --soft: #f4f4f2; --warn: #8a4b00;
  --curve: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #16181b; --line: #3a3d42; --soft: #1f2226; --warn: #f0b35c;
    --curve: #56b4e9; }
  img { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
dl.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.tiles div { background: var(--soft); border: 1px solid var(--line); border-radius: .4rem; padding: .7rem .9rem; }
.tiles dt { font-size: .85rem; } .tiles dd { margin: 0; } .tiles dd.detail { font-size: .8rem; opacity: .8; }
.tiles dd.value { font-size: 1.7rem; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
.headline { font-size: 1.1rem; margin: 1rem 0; }
.scroll + .scroll { margin-top: .6rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
thead th { background: var(--soft); vertical-align: bottom; white-space: normal; min-width: 5rem;
  overflow-wrap: normal; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--soft); }
.facts td { text-align: left; white-space: pre-wrap; min-width: 6rem; overflow-wrap: normal; }
td.absent { opacity: .55; }
.note { font-size: .85rem; }
.notes { font-size: .85rem; padding-left: 1.2rem; } .warn { color: var(--warn); font-weight: 600; }
details { margin: .8rem 0; border-top: 1px solid var(--line); } summary { cursor: pointer; padding: .5rem 0; }
details > summary { font-weight: 600; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; display: block; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 32rem), 1fr)); gap: 0 2rem; }
.plots .wide { grid-column: 1 / -1; }
.curves { grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
.curves h2 { font-size: 1rem; font-weight: 400; margin: 1rem 0 0; display: flex; justify-content: space-between; }
.curves figure { margin: .3rem 0; display: grid;
  grid-template-columns: auto 1fr; gap: 0 .5rem; font-size: .8rem; font-variant-numeric: tabular-nums; }
.range > :only-child { margin: auto 0; }
.range { display: flex; flex-direction: column; justify-content: space-between; text-align: right; }
.curves figcaption { grid-column: 2; display: flex; justify-content: space-between; }
.curves svg { width: 100%; border: 1px solid var(--line); border-width: 0 0 1px 1px; color: var(--curve); }
.curves polyline { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
.curves circle { fill: currentColor; }
pre { overflow-x: auto; background: var(--soft); padding: .8rem; border-radius: .4rem; font-size: .8rem; }
@media (max-width: 40rem) {
  dl.tiles { grid-template-columns: 1fr 1fr; } .tiles dd.value { font-size: 1.4rem; }
  thead { display: none; } tr { display: block; padding: .3rem 0; border-bottom: 1px solid var(--line); }
  td, .facts td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .15rem .6rem;
    white-space: normal; text-align: right; overflow-wrap: anywhere; }
  td::before { content: attr(data-head); text-align: left; opacity: .75; flex: 0 0 40%; }
  td:first-child { position: static; font-weight: 600; text-align: right; }
  td[data-head=""] { justify-content: flex-start; text-align: left; } td[data-head=""]::before { content: none; }
  pre { white-space: pre-wrap; }
}
"""
ARM_COLUMNS = ("arm", "seeds", "final accuracy", "training time", "speed-up", "compute ratio", "kept")
"""Beginnings of the headings of the short table."""
CLASS_ABSENT = ' class="absent"'
STOPPED_RIGHT = "How often a right rollout was stopped"
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
    runs = [read_run(path) for path in find_runs(paths)]
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
    parts = [f"# {escape_markdown(title)}\n"]
    if said := headline(runs, rows):
        parts.append(f"{escape_markdown(said)}\n")
    if found := tiles(rows):
        parts.append("".join(f"- {t.name}: **{t.value}** ({escape_markdown(t.detail)})\n" for t in found))
    parts.append(markdown_tables(rows))
    notes = [f"**{escape_markdown(text)}**" for text in warnings]
    notes += [escape_markdown(note) for note in comparison_notes(rows)]
    parts.append("".join(f"- {note}\n" for note in notes))
    parts += [f"## {plot.title}\n\n![{plot.title}](plots/{plot.path.name})\n" for plot in plots]
    if shadows := shadow_rows(runs):
        table = [HEADS, [":--"] * len(HEADS), *([escape_markdown(cell) for cell in row.cells()] for row in shadows)]
        parts.append(f"## {STOPPED_RIGHT}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in table))
    heads, *cells = provenance_cells(runs)
    lines = [heads, [":--"] * len(heads)] + [[escape_markdown(cell) for cell in line] for line in cells]
    parts.append("## Where the numbers come from\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines))
    for label, text in _configs(runs):  # no line of JSON can close the fence
        parts.append(f"### Config of {escape_markdown(label)}\n\n```json\n{text}\n```\n")
    return "\n".join(parts)


def html_report(
    title: str, runs: Sequence[Run], rows: Sequence[Row], plots: Sequence[Plot], warnings: Sequence[str]
) -> str:
    """HTML of the same on one page: plots as base64, no script, no request.

    Key numbers, one sentence, warnings, one plot, the arms; then all numbers, the other plots, provenance and configs
    behind folds.
    """
    shown = display_rows(rows)
    warned = "".join(f'<li class="warn">{html.escape(text)}</li>' for text in warnings)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in comparison_notes(rows))
    said = headline(runs, rows)
    body = html_tiles(tiles(rows))
    body += f'<p class="headline">{html.escape(said)}</p>\n' if said else ""
    body += f'<ul class="notes">{warned}</ul>\n' if warned else ""
    body += "".join(map(html_figure, plots[:1]))
    if len(rows) > 1:
        heads = [head for head in shown[0] if head.startswith(ARM_COLUMNS)]
        body += f"<h2>Arms</h2>\n{html_table(heads, [[row[head] for head in heads] for row in shown])}\n"
        body += "".join(f'<p class="notes">{html.escape(note)}</p>\n' for note in head_notes(rows))
    sets = ((heads, [[row[head] for head in heads] for row in shown]) for heads in column_sets(rows))
    tables = "\n".join(html_table(*each) for each in sets)
    body += html_fold("All numbers, and how they were made", f'{tables}\n<ul class="notes">{notes}</ul>')
    if plots[1:]:
        figures = "".join(map(html_figure, plots[1:]))
        body += html_fold(f"More plots ({len(plots) - 1})", f'<div class="plots">\n{figures}</div>')
    if shadows := shadow_rows(runs):
        body += html_fold(STOPPED_RIGHT, html_table(list(HEADS), [row.cells() for row in shadows]))
    facts_heads, *facts = provenance_cells(runs)
    body += html_fold("Where the numbers come from", html_table(facts_heads, facts, "facts"))
    configs = (html_fold(f"Config of {label}", f"<pre>{html.escape(text)}</pre>") for label, text in _configs(runs))
    body += html_fold("Configs", "".join(configs))
    return whole_page(title, body)


def whole_page(title: str, body: str, renewed_s: int = 0) -> str:
    """A page of its own: no script, no request. ``body`` is HTML; the browser loads the page anew every ``renewed_s``
    seconds, never for 0."""
    renewed = f'<meta http-equiv="refresh" content="{renewed_s}">\n' if renewed_s else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{renewed}<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{html.escape(title)}</h1>\n"
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


def html_tiles(found: Sequence[Tile]) -> str:
    """Key numbers side by side; empty without any."""
    cells = "".join(
        f'<div><dt>{html.escape(tile.name)}</dt><dd class="value">{html.escape(tile.value)}</dd>'
        f'<dd class="detail">{html.escape(tile.detail)}</dd></div>\n'
        for tile in found
    )
    return f'<dl class="tiles">\n{cells}</dl>\n' if cells else ""


def html_fold(title: str, body: str) -> str:
    """A part that opens on a click; ``body`` is HTML."""
    return f"<details><summary>{html.escape(title)}</summary>\n{body}\n</details>\n"


def html_table(heads: Sequence[str], lines: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    """A table that scrolls by itself, or one block per row on a narrow screen; ``kind`` is ``numbers`` or ``facts``."""
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in heads)
    body = ""
    for line in lines:
        cells = "".join(
            f'<td data-head="{html.escape(name)}"{CLASS_ABSENT * (text == ABSENT)}>{html.escape(text)}</td>'
            for name, text in zip(heads, line, strict=True)
        )
        body += f"<tr>{cells}</tr>\n"
    top = f"<thead><tr>{head}</tr></thead>\n" if any(heads) else ""
    table = f'<table class="{kind}">\n{top}<tbody>\n{body}</tbody>\n</table>'
    return f'<div class="scroll" tabindex="0">{table}</div>'


def html_figure(plot: Plot) -> str:
    """A plot under its title; its narrow form on a narrow screen."""
    picture = html_image(plot.title, plot.path)
    if plot.narrow is not None:
        narrow = f'<source media="(max-width: 40rem)" srcset="{_data_url(plot.narrow)}">'
        picture = f"<picture>{narrow}{picture}</picture>"
    kind = ' class="wide"' if plot.narrow is not None else ""
    return f"<section{kind}><h2>{html.escape(plot.title)}</h2>\n<figure>{picture}</figure></section>\n"


def html_image(title: str, path: Path) -> str:
    """A picture inside the page."""
    return f'<img alt="{html.escape(title)}" src="{_data_url(path)}">'


def _data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
