"""Sets of real numbers in one normal form."""

import math

import pytest

from arrol.verifiers.answers import read_answer
from arrol.verifiers.reals import Piece, _without, reals_of, same_reals
from arrol.verifiers.values import context


def reals(text):
    found = reals_of(read_answer(text))
    assert found is not None
    return found[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"[1,2] \cup (2,3]", "[1,3]"),
        (r"x<2 \text{ or } x>3", r"(3,\infty)\cup(-\infty,2)"),
        (r"\mathbb{R} \setminus \{3\}", r"x \ne 3"),
        ("-2x > 4", "x < -2"),
        (r"(0,2) \cap [1,3)", "[1,2)"),
        (r"(0,1) \cup \{1\}", "(0,1]"),
        (r"x<\sqrt{2}", r"(-\infty,\frac{2}{\sqrt{2}})"),
        (r"\pi x \ge 1", r"[\frac{1}{\pi},\infty)"),
        (r"(0,\sqrt{2})\cup(1,2)", "(0,2)"),
        (r"(0,\sqrt{2}] \cap (0,\frac{2}{\sqrt{2}})", r"(0,\sqrt{2})"),
        (r"(0,\sqrt{2}) \cap (0,\frac{2}{\sqrt{2}}]", r"(0,\sqrt{2})"),
        (r"(0,\frac{2}{\sqrt{2}}] \cap (0,\sqrt{2})", r"(0,\sqrt{2})"),
        (r"[\sqrt{2},3] \cap (\frac{2}{\sqrt{2}},3]", r"(\sqrt{2},3]"),
        (r"(\sqrt{2},3] \cap [\frac{2}{\sqrt{2}},3]", r"(\sqrt{2},3]"),
        (r"[\frac{2}{\sqrt{2}},3] \cap (\sqrt{2},3]", r"(\sqrt{2},3]"),
        (r"[\sqrt{2},3) \cup (\frac{2}{\sqrt{2}},4)", r"[\sqrt{2},4)"),
        (r"(\sqrt{2},3) \cup [\frac{2}{\sqrt{2}},4)", r"[\sqrt{2},4)"),
        (r"[\sqrt{2},3) \setminus [\frac{2}{\sqrt{2}},3)", r"\emptyset"),
    ],
)
def test_equal_sets(one, other):
    assert same_reals(reals(one), reals(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[0,1]", "[0,1)"),
        ("x<2", "(1,2)"),
        ("(1,2)", "x<2"),
        (r"(0,1)\cup(1,2)", "(0,2)"),
        (r"(0,\sqrt{2})\cup(\frac{2}{\sqrt{2}},2)", "(0,2)"),
        (r"(0,\frac{2}{\sqrt{2}})\cup(\sqrt{2},2)", "(0,2)"),
        ("x<1", r"x\le 1"),
    ],
)
def test_other_sets(one, other):
    assert not same_reals(reals(one), reals(other))


@pytest.mark.parametrize("text", ["5", "x^2 < 4", "x < y", "(2,1)", "ix < 2", "x(x-1)(x-2)+x < 3"])
def test_no_sets(text):
    assert reals_of(read_answer(text)) is None


def test_the_rest_of_the_line():
    near = 1 + context().mpf(10) ** -50  # equal to 1 up to rounding
    below, above = Piece(-math.inf, True, 0, False), Piece(2, False, math.inf, True)
    assert _without([Piece(0, True, 1, True), Piece(near, True, 2, True)]) == [
        below,
        Piece(1, False, near, False),
        above,
    ]
    assert _without([Piece(0, True, 1, False), Piece(near, True, 2, True)]) == [below, above]
    assert _without([Piece(0, False, 2, False)]) == [Piece(-math.inf, True, 0, True), Piece(2, True, math.inf, True)]
    assert _without([]) == [Piece(-math.inf, True, math.inf, True)]
