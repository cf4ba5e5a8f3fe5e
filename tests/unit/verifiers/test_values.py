"""Equality by values: exact where possible, at points where there are names, within bounds."""

import pytest

from arrol.verifiers.formula import FormulaError, parse_formula
from arrol.verifiers.values import RangeError, are_equal, coordinate, value_of


def equal(one, other):
    return are_equal(parse_formula(one), parse_formula(other))


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        ("2^{100}", "2^{100}+1", False),
        (r"\sin \pi", "0", True),
        (r"\frac{\pi}{10^{60}}", "0", False),
        (r"\sqrt{2}\sqrt{3}", r"\sqrt{6}", True),
        (r"\sqrt{ab}", r"\sqrt{a}\sqrt{b}", True),
        (r"\sqrt{x^2}", "x", False),
        (r"\ln x^2", r"2\ln x", True),
        ("(-1)^{2n}", "1", True),
        (r"\frac{1}{2004!}", r"\frac{1}{2006!}", False),
        (r"\log 100", "2", True),
    ],
)
def test_equality(one, other, are_same):
    assert equal(one, other) is are_same


@pytest.mark.parametrize("text", ["9^{9^{9^{9}}}", "(10^9)!", r"\sin 10^{99}", r"e^{e^{e^{e^e}}}", "10^{10^{10}}!"])
def test_numbers_out_of_range(text):
    with pytest.raises((RangeError, FormulaError)):
        value_of(parse_formula(text))


def test_points_depend_on_the_name_alone():
    assert coordinate("x", 0) == coordinate("x", 0) != coordinate("y", 0)
    assert 0 < coordinate("x", 0) < 1
    assert coordinate("x", 3).denominator == 1
