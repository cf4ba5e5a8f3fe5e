"""Kinds of answers and their parts."""

import pytest

from arrol.verifiers.answers import decimal_places, decimal_point, read_answer


@pytest.mark.parametrize(
    ("text", "kind", "parts"),
    [
        ("(B)", "letter", 0),
        ("E) 12", "choice", 1),
        (r"\textbf{(C)}\ 12", "choice", 1),
        ("A) 7, B) 8", "opaque", 0),
        (r"\text{Friday}", "words", 0),
        ("4:30 p.m.", "words", 0),
        ("3:2", "tuple", 2),
        (r"\frac{1}{2}", "formula", 0),
        ("1, 2, 3", "list", 3),
        (r"\pm 2", "list", 2),
        (r"\{1, 2\}", "set", 2),
        ("(1,2)", "tuple", 2),
        ("x = 5", "relation", 2),
        (r"1 < x \le 2", "relation", 3),
        (r"(0,1) \cup \{3\}", "union", 2),
        (r"\varnothing", "empty", 0),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", "matrix", 4),
        ("7?8", "opaque", 0),
    ],
)
def test_kinds(text, kind, parts):
    answer = read_answer(text)
    assert (answer.kind, len(answer.members)) == (kind, parts)


def test_decimals():
    assert decimal_places("0.00120") == (3, -5)
    assert decimal_places("1.5e3") == (2, 2)
    assert decimal_places("12") is None
    assert decimal_point("1,22") == "1.22"
