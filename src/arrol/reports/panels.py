"""The empty panels and the legend of a plot, alike in every plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from arrol.reports.styles import ArmStyle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PIXELS_PER_INCH = 150
WIDTH_INCHES = 8.0
NARROW_INCHES = 4.4
"""Of a plot with one panel, or with stacked panels: legible on a telephone."""


def new_panels(rows: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of ``height`` inches and its panels, row by row; matplotlib's global state stays."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = WIDTH_INCHES if columns > 1 else NARROW_INCHES
    figure = Figure(figsize=(width, height), dpi=PIXELS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def add_legend(figure: Figure, styles: Sequence[ArmStyle], *, markers: bool = True) -> None:
    """One entry per arm under the panels, in as many columns as fit."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=style.colour, linestyle=style.line, marker=style.marker if markers else "")
        for style in styles
    ]
    labels = [style.label for style in styles]
    letters = 88 * figure.get_figwidth() / WIDTH_INCHES
    columns = max(1, int(letters // (max(map(len, labels)) + 8)))
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))
