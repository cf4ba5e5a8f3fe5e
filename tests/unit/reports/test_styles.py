"""Arms keep their style and differ in it."""

import pytest

from arrol.reports.styles import GREY, arm_styles, plain_label


def test_a_named_rule_has_its_colour_in_any_company():
    few, many = arm_styles(["grpo", "neyman"]), arm_styles(["grpo", "uniform", "custom", "neyman", "oracle"])
    assert few["neyman"].colour == many["neyman"].colour
    assert few["grpo"].colour == many["grpo"].colour == GREY


def test_looks_differ():
    names = ["grpo", "balanced", "neyman", "uniform", "oracle", "confidence", "mine", "yours"]
    styles = arm_styles(names).values()
    assert len({style.colour for style in styles}) == len(names)
    assert len({style.marker for style in styles}) == len(names)


def test_more_arms_than_colours():
    assert len(arm_styles([f"arm{at}" for at in range(40)])) == 40


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("grpo", "grpo"),
        ("$x^2", r"\$x^2"),
        ("_hidden", " _hidden"),
        ("", " "),
        ("a\nb\x00", "a?b?"),
        ("\u6f22", "?"),
        ("x" * 50, "x" * 29 + "..."),
    ],
)
def test_labels_are_plain(text, shown):
    assert plain_label(text) == shown
