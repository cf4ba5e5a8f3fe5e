"""Plots and page of ``arrol advise``: merit against group size, AUROC against share of length, rows that are live.

From the command's JSON report; nothing is computed here but logarithms of an axis.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from arrol.reports.page import html_figure, html_table, whole_page
from arrol.reports.panels import NARROW_INCHES, PIXELS_PER_INCH
from arrol.reports.plots import STYLE, Plot, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Report = Mapping[str, Any]


class PagePart(NamedTuple):
    """A part of the page."""

    title: str
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    lines: Sequence[str] = ()
    """Shown as they are."""
    kind: str = "numbers"


MARKERS = "sD^vPX*<>"
"""Markers of the levers other than group sizes, in the order of the table."""
TITLES = {
    "merit": "Merit by group size",
    "auroc": "What a head can see",
    "live": "Rows that still write",
}
"""Titles of the plots, by the name of their file."""


def write_page(title: str, parts: Sequence[PagePart], plots: Sequence[Path], folder: str | Path) -> Path:
    """``advice.html`` in the folder: the screen's tables and lines, and the plots, on one page without requests."""
    body = ""
    for part in parts:
        body += f"<h2>{html.escape(part.title)}</h2>\n" if part.title else ""
        body += html_table(part.heads, part.rows, part.kind) + "\n" if part.rows else ""
        body += f"<pre>{html.escape(chr(10).join(part.lines))}</pre>\n" if part.lines else ""
    figures = "".join(html_figure(Plot(path.stem, TITLES[path.stem], path)) for path in plots)
    body += f'<div class="plots">\n{figures}</div>\n' if plots else ""
    page = whole_page(title, body)
    return write_whole(Path(folder) / "advice.html", partial(Path.write_text, data=page, encoding="utf-8"))


def draw_workload(report: Report, folder: str | Path) -> list[Path]:
    """The files of every plot that the report has numbers for."""
    import matplotlib as mpl

    drawn = []
    with mpl.rc_context(STYLE):
        for name, draw in (("merit", merit_by_size), ("auroc", auroc_by_share), ("live", live_by_token)):
            figure = draw(report)
            if figure is not None:
                save = partial(figure.savefig, format="png", dpi=PIXELS_PER_INCH, metadata={"Software": None})
                drawn.append(write_whole(Path(folder) / f"{name}.png", save))
    return drawn


def merit_by_size(report: Report) -> Figure | None:
    """Merit relative to the run's own group size, with intervals, per cost model; the other levers under the first."""
    if "sizes" not in report:
        return None
    figure, axes = _axes("rollouts per prompt", "merit (yours: 1)")
    for number, (name, rows) in enumerate(report["sizes"].items()):
        sizes = [row["size"] for row in rows]
        axes.plot(sizes, [row["merit"] for row in rows], "o-", color=f"C{number}", label=name)
        low, high = ([row[end] for row in rows] for end in ("low", "high"))
        axes.fill_between(sizes, low, high, color=f"C{number}", alpha=0.15)
    others = [row for row in report["levers"] if not row["is_whole"]]
    for number, row in enumerate(others):
        merit = row["beside_own"]
        reach = [[merit["merit"] - merit["low"]], [merit["high"] - merit["merit"]]]
        marker = MARKERS[number % len(MARKERS)]
        axes.errorbar(
            row["group_size"], merit["merit"], np.abs(reach), marker=marker, color="#404040", label=row["name"]
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    figure.legend(title="cost; levers under the first", fontsize="x-small", loc="outside lower center", ncols=2)
    return figure


def auroc_by_share(report: Report) -> Figure | None:
    """AUROC within prompts and pooled, against the share of the longest completion."""
    rows = [row for row in report["heads"] if row["auroc_within"] == row["auroc_within"]]
    if not rows:
        return None
    figure, axes = _axes("share of the longest completion", "AUROC (0.5: chance)")
    for name, label in (("auroc_within", "within prompts"), ("auroc_pooled", "pooled: mostly the prompt's difficulty")):
        axes.plot([row["length_share"] for row in rows], [row[name] for row in rows], "o-", label=label)
    axes.axhline(0.5, color="#808080", linewidth=1)
    axes.set_xlim(0, 1)
    figure.legend(loc="outside lower center")
    return figure


def live_by_token(report: Report) -> Figure | None:
    """Rows that still run after each token; under a model with decode steps, the time of each on a second axis."""
    figure, axes = _axes("position (tokens)", "rollouts still running")
    live, model = report["live"], report["costs"][0]
    axes.plot(range(len(live)), live)
    if model["is_seconds"]:
        right = axes.twinx()
        times = [1e3 * (model["decode_step"] + model["generated"] * rows) for rows in live]
        right.plot(range(len(times)), times, color="C1", linestyle="--")
        right.set_ylabel(f"ms per decode step, {model['name']} (dashed)")
        right.set_ylim(bottom=0)
        right.grid(False)
    return figure


def _axes(x: str, y: str) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(NARROW_INCHES, 0.75 * NARROW_INCHES), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes
