"""One spelling of many, and units apart from numbers."""

import pytest

from arrol.verifiers.spelling import tidied, without_unit


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        (r"\left( -\infty , 2 \right]", r"(-\infty,2]"),
        (r"\text{13}", "13"),
        ("`$13$`", "13"),
        ("'42'", "42"),
        (r"1{,}000", "1000"),
        ("1,000, 2", "1000,2"),
        (r"\dfrac{x}{2}.", r"\frac{x}{2}"),
        (r"x \leq 2", r"x\le2"),
        (r"1 \\ 2", r"1 \\ 2"),
    ],
)
def test_tidied(text, spelled):
    assert tidied(text) == spelled


@pytest.mark.parametrize(
    ("text", "bare", "unit"),
    [
        (r"12\,\mathrm{cm}^2", "12", "cm^2"),
        ("5 km/h", "5", "km /h"),
        ("6m", "6m", ""),
        ("6 m", "6", "m"),
        ("7 apples", "7", "?"),
        ("$5", "5", "dollar"),
        (r"25^\circ", "25", "degree"),
        ("3 or", "3 or", ""),
        (r"\frac{t}{4}", r"\frac{t}{4}", ""),
    ],
)
def test_units(text, bare, unit):
    assert without_unit(tidied(text)) == (bare, unit)
