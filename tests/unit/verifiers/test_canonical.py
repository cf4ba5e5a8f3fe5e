r"""Spellings: what is a number and which, what is a letter, what is one text; and that algebra agrees."""

import random
from fractions import Fraction

import pytest

from arrol.verifiers.canonical import MAX_DIGITS, answer_key, plain_number
from arrol.verifiers.comparison import equality
from arrol.verifiers.symbolic import SymbolicVerifier


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("27", 27),
        ("27.0", 27),
        (" 027 ", 27),
        ("-5", -5),
        ("\u22125", -5),
        ("+5", 5),
        ("1,000", 1000),
        ("1{,}000", 1000),
        ("1\\,000", 1000),
        ("12,345,678.50", Fraction("12345678.5")),
        ("$18$", 18),
        ("\\$1,080", 1080),
        ("$1,080", 1080),
        ("-\\$5", -5),
        ("\\$-5", -5),
        (".5", Fraction(1, 2)),
        ("0.50", Fraction(1, 2)),
        ("1/2", Fraction(1, 2)),
        ("-1 / 2", Fraction(-1, 2)),
        (r"\frac{1}{2}", Fraction(1, 2)),
        (r"-\dfrac{10}{4}", Fraction(-5, 2)),
        (r"\tfrac12", Fraction(1, 2)),
        (r"\text{ 12 }", 12),
        ("0/7", 0),
        ("9" * MAX_DIGITS, int("9" * MAX_DIGITS)),
    ],
)
def test_plain_numbers_are_exact(text, number):
    assert plain_number(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "$",
        "$$",
        "-",
        ".",
        "5.",
        "1,00",
        "1,0000",
        "01,000 ",
        "1 000",
        "1 1/2",
        "1/0",
        "1/2/3",
        "50%",
        "50\\%",
        "2^5",
    ]
    + [
        "1e3",
        "x",
        "5 cm",
        "--5",
        "-\\$-5",
        "\u0663",
        "\uff11",
        "\u00bd",
        "\u2460",
        "1,2,3",
        "(3)",
        "{3}",
        "\\frac{1}{0}",
    ]
    + ["\\frac123", "9" * (MAX_DIGITS + 1), "9" * 1_000_000, "1/" + "9" * 200, "0x10", "1_000", "inf", "nan"],
)
def test_anything_else_is_no_plain_number(text):
    # 01,000 is one: a leading zero is no separator in a wrong place
    assert (plain_number(text) is None) == (text != "01,000 ")


@pytest.mark.parametrize("text", ["B", "(B)", "B.", "(B).", r"\text{(B)}", r"\textbf{B}", r"$\mathrm{(B)}$", " (B) "])
def test_choice_letters(text):
    assert answer_key(text)[:2] == ("letter", "B")


@pytest.mark.parametrize("text", ["b", "K", "(B", "AB", "B, C", "", "\u0392"])
def test_other_texts_are_no_choice_letter(text):
    assert answer_key(text).kind != "letter"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\left( -\infty , 2 \right]", r"(-\infty ,2]"),
        (r"\dfrac{x}{2}", r"\frac{x}{2}"),
        ("x + 1", "x+1"),
        ("$x+1$.", "x+1"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"3\!\sqrt{2}", r"3 \sqrt{2}"),
    ],
)
def test_one_text_for_spellings_that_mean_the_same(one, other):
    assert answer_key(one) == answer_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("1 1/2", "11/2"), (r"\leftarrow", "arrow"), ("yes", "no"), ("1, 234", "1,234"), ("2 3", "23")],
)
def test_texts_that_may_mean_something_else_stay_apart(one, other):
    assert answer_key(one) != answer_key(other)


def test_equal_formulas_have_one_key_and_different_numbers_final_ones():
    assert answer_key("0.5") == answer_key(r"\frac{1}{2}")[:2] + (False,)  # 0.5 may be rounded
    assert answer_key(r"\sqrt{18}") == answer_key(r"3\sqrt{2}")
    assert answer_key("(x+1)^2") == answer_key("x^2+2x+1")
    assert answer_key("2^{100}") != answer_key("2^{100}+1")
    assert answer_key("10").is_final
    assert not answer_key("10 km").is_final


def spellings(value):
    """The plain spellings of a fraction."""
    top, bottom = value.numerator, value.denominator
    sign, size = "-" * (top < 0), abs(top)
    yield f"{top}/{bottom}"
    yield rf"{sign}\frac{{{size}}}{{{bottom}}}"
    if bottom == 1:
        yield from (str(top), f"{top}.0", f"{top:,}", f"${top}$", f"{sign}0{size}", rf"{sign}\${size}")
    if bottom in (2, 4, 5):
        yield from (str(float(value)), f"{float(value)}0")


def test_algebra_agrees_with_every_decision_that_is_made_without_it():
    draw, verifier = random.Random(11), SymbolicVerifier()
    verifier.start()
    decided = 0
    for _ in range(150):
        value = Fraction(draw.randint(-(10 ** draw.randint(1, 12)), 10**6), draw.choice([1, 1, 2, 3, 4, 5, 7]))
        other = value if draw.random() < 0.6 else value + draw.choice([1, -1, Fraction(1, 2)])
        found, gold = draw.choice(list(spellings(value))), draw.choice(list(spellings(other)))
        right = equality(found, gold).right
        assert right == (value == other)
        decided += 1
        reply = verifier._reply({"found": found, "gold": gold}, 5.0)
        is_near = value != other and round(value, 6) == round(other, 6)
        assert is_near or (found, gold, right) == (found, gold, reply["right"])
    verifier.close()
    assert decided == 150
