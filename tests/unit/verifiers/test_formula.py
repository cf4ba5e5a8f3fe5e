"""What the parser reads, and what it leaves to algebra."""

import pytest

from arrol.verifiers.formula import FormulaError, is_affine, literal, names_of, parse_formula, uses
from arrol.verifiers.values import value_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1+2*3", 7),
        ("-2^2", -4),
        ("2^3^2", 512),
        (r"\frac12", 0.5),
        (r"1\frac{1}{2}", 1.5),
        (r"3\frac{4}{2}", 6),
        ("3!", 6),
        ("50%", 0.5),
        (r"\binom{5}{2}", 10),
        ("|1-3|", 2),
        (r"\lfloor 2.5\rfloor", 2),
        (r"\sqrt[3]{27}", 3),
        ("2**10", 1024),
        ("np.sqrt(16)", 4),
        (r"0.1\overline{6}", 1 / 6),
        ("5e-3", 0.005),
        (r"\sin 30^\circ", 0.5),
        (r"\log_2 8", 3),
    ],
)
def test_values(text, value):
    assert abs(float(value_of(parse_formula(text))) - value) < 1e-12


@pytest.mark.parametrize(
    "text",
    ["", "1 2", "7?8", "x 3", "1,2", "2)", "(2", r"\sum x", "1+", r"\frac{1}", "1e99999", "(" * 99 + "1" + ")" * 99],
)
def test_other_texts_are_no_formula(text):
    with pytest.raises(FormulaError):
        parse_formula(text)


def test_names():
    assert names_of(parse_formula(r"x_1 + \alpha y - e + \pi i")) == {"x_1", "alpha", "y"}
    assert uses(parse_formula("2i"), "constant", "i")
    assert literal("2.50") == 2.5


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("2x-y/3+\\pi", True),
        ("4", True),
        ("3(x+2y)", True),
        ("x y", False),
        ("1/x", False),
        ("x^1", False),
        ("|x|", False),
        ("\\sqrt{2}x+2^y", False),
    ],
)
def test_affine_formulas(text, is_one):
    assert is_affine(parse_formula(text)) is is_one
