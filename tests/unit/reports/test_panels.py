"""Panels and legends."""

from arrol.reports.panels import NARROW_INCHES, WIDTH_INCHES, add_legend, new_panels
from arrol.reports.styles import arm_styles


def test_several_columns_are_wide_and_one_is_narrow():
    wide, panels = new_panels(2, 3, 4.0)
    narrow, (only,) = new_panels(1, 1, 3.0)
    assert (wide.get_figwidth(), narrow.get_figwidth()) == (WIDTH_INCHES, NARROW_INCHES)
    assert len(panels) == 6
    assert only in narrow.axes


def test_a_legend_names_every_arm():
    figure, _ = new_panels(1, 1, 3.0)
    add_legend(figure, list(arm_styles(["grpo", "a", "b"]).values()))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["grpo", "a", "b"]
