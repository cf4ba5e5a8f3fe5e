"""What is equal, what is not, and what is left to algebra; the table holds the rest."""

import itertools

import pytest

from arrol.verifiers.comparison import equality, equality_of_parts

FORMULAS = [
    *(
        "3",
        "1.5",
        r"\pi",
        r"\sqrt{2}",
        "i",
        r"\sqrt{2}x",
        "ix",
        r"\frac{1}{0}",
        r"\lfloor i \rfloor",
        r"\lceil \pi \rceil",
    ),
    *("i!", r"\log_i 2", r"\infty", r"10^{10^{10}}", r"\sqrt[x]{-2}", "x(x-1)(x-2)+x"),
]
FORMS = [
    *("{}", "x<{}", "{}<x", "x={}", "{}=y", r"{}\le x<4", "(1,{})", "[{},2)", r"(-\infty,{})\cup(4,5]", r"1\pm {}"),
    *("{}, 2", "{}:2", r"x\in[0,{}]", r"{}\approx 3", "x+{}<2y", "{}x>1"),
]


def test_what_is_left_to_algebra():
    assert equality("3", r"\max(3, 2)").right is None
    assert equality(r"\sum_{k=1}^2 k", "3").right is None
    assert equality("7?8", "7").right is False
    assert equality("9^{9^{9^9}}", "7").right is False


def test_a_tolerance():
    assert equality("3.15", "3.14", 0.02).right is True
    assert equality("3.17", "3.14", 0.02).right is False


def test_parts():
    assert equality_of_parts(r"\pm 2", ("2", "-2")).right is True
    assert equality_of_parts("(3,4), (1,2)", ("(1,2)", "(3,4)")).right is True
    assert equality_of_parts("2", ("2", "-2")).right is False


def test_reasons():
    assert equality("10 km", "10 m").reason == "unit km is not m"
    assert equality("1,2", "1,2,3").reason == "2 members, not 3"


@pytest.mark.parametrize("form", FORMS)
def test_no_formula_ends_in_an_error(form):
    """Fractions, mpmath's real and complex numbers meet in every form; an error would end a training."""
    texts = [form.replace("{}", formula) for formula in FORMULAS]
    for found, gold in itertools.product(texts, ["x<2", "[1,2]", "3", *texts[:5]]):
        for tolerance in (0.0, 0.1):
            assert equality(found, gold, tolerance).right in (True, False, None)
