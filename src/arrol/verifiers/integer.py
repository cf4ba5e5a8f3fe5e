r"""Integers: the answer of a text, compared with a whole number without algebra and without another process.

Sample: ``"... so she has 3 * 4 = <<3*4=12>>12 left.\n#### 1,012.00"`` is right for the gold answer ``1012``, and so are
``\boxed{m+n=1012}`` and ``\boxed{\frac{2024}{2}}``; ``\boxed{1012, 1013}`` is wrong. The marks are those of every
verifier (``extraction.py``), the comparison is ``comparison.py``; what only algebra could decide is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from arrol.errors import ConfigError, DataError
from arrol.types import Verdict
from arrol.verifiers.answers import read_answer
from arrol.verifiers.canonical import plain_number
from arrol.verifiers.extraction import DEFAULT_MARKS, final_answer
from arrol.verifiers.formula import FormulaError, names_of
from arrol.verifiers.rules import judged, unreadable
from arrol.verifiers.values import value_of

MAX_DIGITS = 100
"""Longer numbers are refused: int() of a long text takes quadratic time."""

_INTEGER = re.compile(
    r"[-+\u2212]?(?:\\?\$ ?)?[-+\u2212]?(?:[0-9]{1,3}(?:(?:,|\{,\}|\\,)[0-9]{3})+|[0-9]+)(?:\.0*)?,?", re.ASCII
)


def parse_integer(text: str) -> int | None:
    """The integer that is the whole of ``text``, or None."""
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS:
        return int(text)
    if len(text) > MAX_DIGITS or not _INTEGER.fullmatch(text):
        return None
    number = plain_number(text.rstrip(".,"))
    return int(number) if number is not None and number.denominator == 1 else None


def final_integer(text: str, marks: Sequence[str] = DEFAULT_MARKS, *, require_mark: bool = False) -> int | None:
    """The integer that the answer of a text is, by the order of marks; None when it is none."""
    found = final_answer(text, marks, require_mark=require_mark).text
    if found is None or unreadable(found):
        return None
    node = read_answer(found).node
    try:
        value = None if node is None or names_of(node) else value_of(node)
    except (FormulaError, ZeroDivisionError, OverflowError):
        return None
    return int(value) if isinstance(value, Fraction) and value.denominator == 1 else None


class IntegerVerifier:
    """Right when the answer of the text equals the gold integer."""

    def __init__(self, marks: Sequence[str] = DEFAULT_MARKS, *, require_mark: bool = False) -> None:
        if isinstance(marks, str) or not all(marks) or (require_mark and not marks):
            raise ConfigError(f"marks: {marks!r} must be a list of texts that are not empty, such as ['####']")
        self.marks = tuple(marks)
        self.require_mark = require_mark

    def verify(self, text: str, answer: str) -> Verdict:
        if parse_integer(answer) is None:
            raise DataError(f"answer: {answer[:80]!r} is not an integer; choose verifier 'symbolic' for this task")
        return judged(text, answer, self.marks, require_mark=self.require_mark).verdict
