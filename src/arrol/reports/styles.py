"""Colour, line and marker of each arm, the same in every plot: Okabe and Ito's palette for colour-blind readers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

GREY = "#404040"
KNOWN_COLOURS = {
    "balanced": "#0072b2",
    "neyman": "#d55e00",
    "paper": "#009e73",
    "uniform": "#e69f00",
    "oracle": "#cc79a7",
    "confidence": "#56b4e9",
    "small_group": "#8c6d31",
}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6d31", "#7f7f7f")
LINES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX<>"


class ArmStyle(NamedTuple):
    """Label, colour, line and marker of one arm."""

    label: str
    colour: str
    line: Any
    marker: str


def arm_styles(arms: Iterable[str]) -> dict[str, ArmStyle]:
    """Style of each arm; the first is the baseline, in dark grey."""
    names = list(arms)
    taken = {KNOWN_COLOURS[name] for name in names[1:] if name in KNOWN_COLOURS}
    free = [colour for colour in COLOURS if colour not in taken] or list(COLOURS)
    styles: dict[str, ArmStyle] = {}
    for position, name in enumerate(names):
        if position == 0:
            colour = GREY
        elif name in KNOWN_COLOURS:
            colour = KNOWN_COLOURS[name]
        else:
            colour = free.pop(0) if len(free) > 1 else free[0]
        line, marker = LINES[position // len(COLOURS) % len(LINES)], MARKERS[position % len(MARKERS)]
        styles[name] = ArmStyle(plain_label(name), colour, line, marker)
    return styles


def plain_label(text: str) -> str:
    """A name as matplotlib can show it: no mathematics, no missing glyphs, no first underscore, 32 characters."""
    shown = "".join(char if char.isprintable() and ord(char) < 0x250 else "?" for char in text)
    shown = (shown if len(shown) <= 32 else shown[:29] + "...").replace("$", r"\$")
    return " " + shown if shown.startswith("_") or not shown else shown
