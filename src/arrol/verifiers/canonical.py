r"""Keys of answers, and plain numbers: what needs no comparison.

Sample: ``\frac{1}{2}``, ``\dfrac12`` and ``1/2`` have the key of the fraction 1/2, ``\text{(B)}`` that of the letter B.

A plain number is ASCII digits with a sign, thousands separators in their right places (``1,000``, ``1{,}000``,
``1\,000``), a decimal part, a ``$`` in front, or a fraction of two integers without separators. Nothing is rounded: a
number is an exact fraction. Texts are bounded by the caller.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from arrol.verifiers.answers import decimal_places, read_answer
from arrol.verifiers.formula import FormulaError, names_of
from arrol.verifiers.values import Number, context, coordinate, value_of

MAX_DIGITS = 100
"""Longer numbers are not plain: int() of a long text takes quadratic time."""
MAX_REMEMBERED = 8192
"""Answers whose keys are kept."""

_WHOLE = r"(?:[0-9]{1,3}(?:(?:,|\{,\}|\\,)[0-9]{3})+|[0-9]+)"
_DECIMAL = re.compile(rf"(?P<whole>{_WHOLE})?(?:\.(?P<part>[0-9]+))?", re.ASCII)
_RATIO = re.compile(
    r"(?P<top>[0-9]+) ?/ ?(?P<bottom>[0-9]+)"
    r"|\\[dt]?frac ?(?:\{(?P<top2>[0-9]+)\}|(?P<top3>[0-9])) ?(?:\{(?P<bottom2>[0-9]+)\}|(?P<bottom3>[0-9]))",
    re.ASCII,
)
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textrm|mbox)\{([^{}\\]*)\}")


class Key(NamedTuple):
    """Spellings with equal keys are equal answers."""

    kind: str
    """``value`` for a formula, else the kind of the answer (``answers.py``)."""
    value: str
    is_final: bool = False
    """True when a different key that is final too is a different answer."""


@lru_cache(maxsize=MAX_REMEMBERED)
def answer_key(text: str) -> Key:
    """The key of an answer; formulas have the key of their values, so that most equal ones need no comparison."""
    number = plain_number(text)
    if number is not None and "." not in text:
        return Key("value", str(number), is_final=True)
    answer = read_answer(text)
    if answer.node is None:
        is_final = answer.kind in ("letter", "words")
        return Key(answer.kind, answer.letter or answer.text, is_final=is_final)
    names = names_of(answer.node)
    try:
        points = [{name: coordinate(name, k) for name in names} for k in (1, 2, 3)] if names else [{}]
        values = [_spelled(value_of(answer.node, point)) for point in points]
    except (FormulaError, ZeroDivisionError, OverflowError, RecursionError):
        return Key(answer.kind, answer.text)
    sign = answer.unit + "%" * answer.has_percent
    return Key("value", " ".join([*values, sign]).strip(), is_final=not sign and decimal_places(answer.text) is None)


def _spelled(value: Number) -> str:
    return str(value) if isinstance(value, Fraction) else context().nstr(value, 40)


def plain_number(text: str) -> Fraction | None:
    """The number that is the whole of a text, exactly; None when it is no plain number."""
    text = _unwrapped(text)
    if len(text) > 2 * MAX_DIGITS or not text:
        return None
    sign, text = _sign_and_rest(text)
    if text.startswith(("\\$", "$")):
        inner, text = _sign_and_rest(text.removeprefix("\\").removeprefix("$").removeprefix(" "))
        if sign * inner == 0 or (sign < 0 and inner < 0):
            return None
        sign *= inner
    ratio = _RATIO.fullmatch(text)
    if ratio is not None:
        top, bottom = (int(next(filter(None, (ratio[n], ratio[n + "2"], ratio[n + "3"])))) for n in ("top", "bottom"))
        return sign * Fraction(top, bottom) if bottom and len(text) <= MAX_DIGITS else None
    number = _DECIMAL.fullmatch(text)
    if number is None or len(text) > MAX_DIGITS or not (number["whole"] or number["part"]):
        return None
    whole = re.sub(r"[^0-9]", "", number["whole"] or "0")
    return sign * Fraction(f"{whole}.{number['part'] or '0'}")


def _unwrapped(text: str) -> str:
    """Without white space, dollar signs or one ``\\text{}`` around the whole."""
    text = text.strip()
    if len(text) > 1 and text.startswith("$") and text.endswith("$"):
        text = text.strip("$").strip()
    wrapped = _WRAPPED.fullmatch(text)
    return wrapped[1].strip() if wrapped else text


def _sign_and_rest(text: str) -> tuple[int, str]:
    if text[:1] in ("-", "\u2212", "+"):
        return (1 if text[0] == "+" else -1), text[1:].lstrip(" ")
    return 1, text
