"""The page of a run that trains: curves as inline SVG, renewed by the browser. No plot library, script or request."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from arrol.records.live import LiveCurve, shown
from arrol.reports.page import whole_page

WIDTH, HEIGHT, EDGE = 320.0, 110.0, 6.0
"""Of a curve's box, in its own units."""


class Progress(NamedTuple):
    """Where the run stands, in words."""

    step: int
    steps: int
    left: str
    """Time left, such as ``12 min``; empty while unknown."""
    is_over: bool
    written: str
    """Date and time of this page."""


def live_page(name: str, curves: Sequence[LiveCurve], warnings: Sequence[str], progress: Progress, every_s: int) -> str:
    """HTML of the curves so far; the browser loads it anew every ``every_s`` seconds until the run is over."""
    said = f"Step {progress.step} of {progress.steps}"
    said += f", {progress.left} left." if progress.left and not progress.is_over else "."
    warned = "".join(f'<li class="warn">{html.escape(text)}</li>' for text in warnings)
    body = f'<p class="headline">{said}</p>\n'
    body += f'<ul class="notes">{warned}</ul>\n' if warned else ""
    body += f'<div class="plots curves">\n{"".join(map(_figure, curves))}</div>\n' if curves else ""
    if progress.is_over:
        note = f'Training ended; last change {progress.written}. <a href="report.html">The report</a> has more plots.'
    else:
        note = f"Renewed every {every_s} s; last change {progress.written}."
    return whole_page(f"arrol: {name}, live", f'{body}<p class="note">{note}</p>\n', 0 if progress.is_over else every_s)


def _figure(curve: LiveCurve) -> str:
    """A curve under its name and last value, with its range and its first and last step."""
    low, high = float(curve.values.min()), float(curve.values.max())
    across = (curve.steps - curve.first) / max(curve.last - curve.first, 1) * (WIDTH - 2 * EDGE) + EDGE
    up = (curve.values - low) / (high - low) if high > low else np.full(len(curve.values), 0.5)
    down = HEIGHT - EDGE - up * (HEIGHT - 2 * EDGE)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))
    name, now = html.escape(curve.name), f"{shown(curve.now)} {html.escape(curve.unit)}".strip()
    limits = "".join(f"<span>{shown(end)}</span>" for end in dict.fromkeys((high, low)))
    steps = "".join(f"<span>step {step}</span>" for step in dict.fromkeys((curve.first, curve.last)))
    return (
        f'<section><h2>{name} <b>{now}</b></h2>\n<figure><div class="range">{limits}</div>'
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{name}, {shown(low)} to {shown(high)}">'
        f'<polyline points="{points}"/><circle cx="{across[-1]:.1f}" cy="{down[-1]:.1f}" r="3"/></svg>'
        f"<figcaption>{steps}</figcaption></figure></section>\n"
    )
