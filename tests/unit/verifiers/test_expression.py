"""Own arithmetic, exact and bounded; numbers are checked before anything is computed."""

import ast
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import arrol.verifiers.expression as module
from arrol.errors import ConfigError, DataError
from arrol.verifiers.expression import (
    MAX_CHARS,
    MAX_DEPTH,
    ExpressionVerifier,
    Malformed,
    gold_text,
    tokens_of,
    value_of,
)

GOLD = "3 5 7 = 22"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1+2*3", 7),
        ("(1+2)*3", 9),
        ("10-3-2", 5),
        ("16/4/2", 2),
        ("7/2", Fraction(7, 2)),
        ("1/3*3", 1),
        (" ( 2 ) ", 2),
        ("2*(3-(4-5))", 8),
    ],
)
def test_values_are_exact(text, value):
    assert value_of(tokens_of(text)) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "-3",
        "3+-5",
        "2**3",
        "2//3",
        "3 5",
        "(3",
        "3)",
        "()",
        "1/0",
        "1/(2-2)",
        "a",
        "3.0",
        "1e3",
        "\u0663",
        "3\u00d75",
        "3^2",
    ]
    + ["(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1), "1" * 10, "1+" * MAX_CHARS + "1"],
)
def test_what_is_no_expression(text):
    with pytest.raises(Malformed):
        value_of(tokens_of(text))


@pytest.mark.parametrize(
    "text", ["#3*5+7", "tries;#7+3*5", "#(3*5)+7", "# 3 * 5 + 7 ", "#1\n#3*5+7\nmore", "#3*5+7=22"]
)
def test_right_answers(text):
    assert ExpressionVerifier().verify(text, GOLD).reward == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3*5+7",
        "#",
        "#22",
        "#3*5+7+0",
        "#3*5+7=21",
        "#3*5+7=22=22",
        "#15+7",
        "#3*5*7",
        "#3*5+7;",
        "#3*5+7\u0667",
        "#5+5+5+7",
    ],
)
def test_wrong_answers(text):
    assert ExpressionVerifier().verify(text, GOLD).reward == 0.0


def test_at_most_once_is_a_choice():
    assert ExpressionVerifier().verify("#3*5", "3 5 7 = 15").reward == 0.0
    assert ExpressionVerifier(use_all=False).verify("#3*5", "3 5 7 = 15").reward == 1.0
    assert ExpressionVerifier(use_all=False).verify("#3*5+3-3", "3 5 7 = 15").reward == 0.0


def test_the_same_number_may_be_given_twice():
    assert ExpressionVerifier().verify("#4+4", "4 4 = 8").reward == 1.0
    assert ExpressionVerifier().verify("#4*2", "4 4 = 8").reward == 0.0


def test_the_answer_is_reported():
    assert ExpressionVerifier().verify("x#3+5=22", GOLD).answer == "3+5"
    assert ExpressionVerifier().verify("nothing", GOLD).answer is None


def test_gold_text_is_what_verify_reads():
    assert gold_text((3, 5, 7), 22) == GOLD
    with pytest.raises(DataError, match="answer: '22'"):
        ExpressionVerifier().verify("#22", "22")
    with pytest.raises(DataError, match="answer"):
        ExpressionVerifier().verify("#22", "\u0663 = 3")
    with pytest.raises(ConfigError, match="mark"):
        ExpressionVerifier("")


@pytest.mark.parametrize(
    "hostile",
    [
        "9**9**9**9",
        "9*" * 90 + "9",
        "(" * 100_000,
        "1" * 1_000_000,
        "__import__('os')",
        "\u0663*\u0665+\u0667",
        "3*5+7#" * 100_000,
    ]
    + ["(" * 1_000_000 + ")" * 1_000_000, "-" * 199 + "1", "3/(5-5)*7"],
)
def test_hostile_expressions_are_wrong(hostile):
    assert ExpressionVerifier().verify("#" + hostile, GOLD).reward == 0.0


def test_nothing_is_evaluated_by_python():
    with open(module.__file__, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"eval", "exec", "compile", "__import__"}


@st.composite
def expressions(draw, depth=4):
    if depth == 0 or draw(st.booleans()):
        return str(draw(st.integers(0, 99)))
    left, right = draw(expressions(depth=depth - 1)), draw(expressions(depth=depth - 1))
    text = f"{left}{draw(st.sampled_from('+-*/'))}{right}"
    return f"({text})" if draw(st.booleans()) else text


def reference(node):
    """Fractions over Python's own syntax tree."""
    if isinstance(node, ast.Constant):
        return Fraction(node.value)
    left, right = reference(node.left), reference(node.right)
    operations = {ast.Add: Fraction.__add__, ast.Sub: Fraction.__sub__, ast.Mult: Fraction.__mul__}
    return left / right if isinstance(node.op, ast.Div) else operations[type(node.op)](left, right)


@settings(max_examples=200)
@given(expressions())
def test_values_agree_with_pythons_grammar(text):
    try:
        expected = reference(ast.parse(text, mode="eval").body)
    except ZeroDivisionError:
        expected = None
    if len(text) > MAX_CHARS or expected is None:
        with pytest.raises(Malformed):
            value_of(tokens_of(text))
    else:
        assert value_of(tokens_of(text)) == expected


def test_random_texts_never_crash():
    draw = random.Random(1)
    for _ in range(2_000):
        text = "".join(draw.choice("0123456789+-*/()#= \n\u0664e.") for _ in range(draw.randrange(60)))
        assert ExpressionVerifier().verify("#" + text, GOLD).reward in (0.0, 1.0)
