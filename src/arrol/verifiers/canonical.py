r"""Spellings that need no algebra: plain numbers, choice letters, and one text for one formula.

Sample: ``0.50``, ``\frac{1}{2}``, ``\dfrac12`` and ``1/2`` are the fraction 1/2; ``\text{(B)}`` is the letter B;
``\left( -\infty , 2 \right]`` and ``(-\infty,2]`` are one text.

A plain number is ASCII digits with a sign, thousands separators in their right places (``1,000``, ``1{,}000``,
``1\,000``), a decimal part, a ``$`` in front, or a fraction of two integers without separators. Nothing is rounded: a
number is an exact fraction. Everything else (``50\%``, ``3\sqrt{2}``, ``2^5``, ``1 1/2``, digits of another script) is
no plain number and is left to algebra. Texts are bounded by the caller.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

MAX_DIGITS = 100
"""Longer numbers are not plain: int() of a long text takes quadratic time."""
NEAR_DECIMALS = 6
"""Numbers that agree to this many decimals are near: algebra decides whether 0.333333 means 1/3."""

_WHOLE = r"(?:[0-9]{1,3}(?:(?:,|\{,\}|\\,)[0-9]{3})+|[0-9]+)"
_DECIMAL = re.compile(rf"(?P<whole>{_WHOLE})?(?:\.(?P<part>[0-9]+))?", re.ASCII)
_RATIO = re.compile(
    r"(?P<top>[0-9]+) ?/ ?(?P<bottom>[0-9]+)"
    r"|\\[dt]?frac ?(?:\{(?P<top2>[0-9]+)\}|(?P<top3>[0-9])) ?(?:\{(?P<bottom2>[0-9]+)\}|(?P<bottom3>[0-9]))",
    re.ASCII,
)
_LETTER = re.compile(r"\(?([A-J])\)?\.?")
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textrm|mbox)\{([^{}\\]*)\}")
_SPACING = re.compile(r"\\(?:left|right|displaystyle|limits)(?![A-Za-z])|\\[!;:,]|\\ |~|\s+")
_TIGHT = re.compile(r" *([-+*/^=<>()\[\]{}|]) *")

_COMMA = re.compile(r" *, *(?![0-9]{3}(?![0-9]))")  # "1, 234" is two numbers and must not become one


class Key(NamedTuple):
    """Spellings with equal keys are equal answers."""

    kind: str
    """``number``, ``letter`` or ``text``."""
    value: Fraction | str


def answer_key(text: str) -> Key:
    """The key of an answer."""
    number = plain_number(text)
    if number is not None:
        return Key("number", number)
    letter = choice_letter(text)
    return Key("text", canonical_text(text)) if letter is None else Key("letter", letter)


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


def choice_letter(text: str) -> str | None:
    """The capital letter A to J that is the whole of a text: ``B``, ``(B)``, ``B.``, ``\\text{(B)}``."""
    match = _LETTER.fullmatch(_unwrapped(text))
    return match[1] if match and _unwrapped(text).count("(") == _unwrapped(text).count(")") else None


def canonical_text(text: str) -> str:
    """One spelling of many: no ``\\left``, no spacing that means nothing, ``\\frac`` for its sizes."""
    text = _SPACING.sub(" ", _unwrapped(text.strip().removesuffix("."))).strip()
    text = re.sub(r"\\[dt]frac(?![A-Za-z])", r"\\frac", text)
    return _COMMA.sub(",", _TIGHT.sub(r"\1", text)).removesuffix(".").strip()


def are_near(first: Fraction, second: Fraction) -> bool:
    """True for different numbers that may be roundings of one."""
    return first != second and round(first, NEAR_DECIMALS) == round(second, NEAR_DECIMALS)


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
