r"""Sets of real numbers: intervals, unions and inequalities of one name in one normal form.

Sample: ``x<2 \text{ or } x>3`` and ``(-\infty,2)\cup(3,\infty)`` are one set.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

from arrol.verifiers.answers import Answer
from arrol.verifiers.formula import FormulaError, Node, names_of
from arrol.verifiers.values import Number, context, to_mp, value_of

_MIRRORED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "\\ne": "\\ne", "=": "="}
TOLERANCE = 1e-40
"""Ends whose relative difference is smaller are equal."""
_LINE_POINTS = (Fraction(0), Fraction(1), Fraction(2), Fraction(22, 7))


class Piece(NamedTuple):
    """An interval; a point when both ends are equal and closed."""

    low: Number
    low_open: bool
    high: Number
    high_open: bool


Reals = list[Piece]
ALL = [Piece(-math.inf, True, math.inf, True)]


def reals_of(answer: Answer) -> tuple[Reals, str] | None:
    """The set in normal form, and the name that the answer calls its member; None for other answers."""
    try:
        found = _reals(answer)
    except (FormulaError, ZeroDivisionError):
        return None
    return None if found is None else (_merged(found[0]), found[1])


def is_about_reals(answer: Answer) -> bool:
    """True for an answer that can only be a set of real numbers."""
    if answer.kind == "union":
        return True
    if answer.kind == "tuple":
        return "[" in answer.signs or "]" in answer.signs or "\\infty" in answer.text
    if answer.kind == "relation":
        return any(sign not in ("=", "\\approx", "\\simeq") for sign in answer.signs)
    return answer.kind == "list" and all(
        (member.kind == "relation" and is_about_reals(member)) or member.kind == "union" for member in answer.members
    )


def _reals(answer: Answer) -> tuple[Reals, str] | None:
    if answer.kind == "empty":
        return [], ""
    if answer.kind == "tuple" and len(answer.members) == 2 and ":" not in answer.signs:
        low, high = (_end(member) for member in answer.members)
        if low is None or high is None or not low < high:
            return None
        return [Piece(low, answer.signs[0] == "(", high, answer.signs[1] == ")")], ""
    if answer.kind == "set":
        ends = [_end(member) for member in answer.members]
        return None if None in ends else ([Piece(end, False, end, False) for end in ends], "")
    if answer.kind == "union":
        return _union(answer)
    if answer.kind == "relation":
        return _relation(answer)
    if answer.kind == "list":
        return _either([_reals(member) for member in answer.members])
    return None


def _either(parts: list[tuple[Reals, str] | None]) -> tuple[Reals, str] | None:
    known = [part for part in parts if part is not None]
    names = {name for _, name in known if name}
    if len(known) < len(parts) or len(names) > 1:
        return None
    return [piece for part, _ in known for piece in part], "".join(names)


def _union(answer: Answer) -> tuple[Reals, str] | None:
    if not answer.members:
        return ALL, ""
    first = _reals(answer.members[0])
    if first is None:
        return None
    result, name = _merged(first[0]), first[1]
    for sign, member in zip(answer.signs, answer.members[1:], strict=True):
        other = _reals(member)
        if other is None:
            return None
        if sign == "\\cup":
            result = _merged([*result, *other[0]])
        else:
            result = _both(result, _merged(other[0]) if sign == "\\cap" else _without(_merged(other[0])))
    return result, name


def _relation(answer: Answer) -> tuple[Reals, str] | None:
    """An inequality, a chain of them, or membership, of one name."""
    if answer.signs == ("\\in",) and answer.members[0].is_lone_name:
        found = _reals(answer.members[1])
        return None if found is None else (found[0], answer.members[0].text)
    result, name = list(ALL), ""
    for left, sign, right in zip(answer.members, answer.signs, answer.members[1:], strict=False):
        found = _inequality(left.node, sign, right.node) if sign in _MIRRORED else None
        if found is None or (name and found[1] and name != found[1]):
            return None
        result, name = _both(result, found[0]), name or found[1]
    return result, name


def _inequality(left: Node | None, sign: str, right: Node | None) -> tuple[Reals, str] | None:
    """``a x + b < 0`` and its like, from its values at four points."""
    if left is None or right is None:
        return None
    names = names_of(left) | names_of(right)
    if len(names) != 1:
        return None
    (name,) = names
    first, second, third, other = (
        _real(value_of(left, {name: x})) - _real(value_of(right, {name: x})) for x in _LINE_POINTS
    )
    slope, size = second - first, max(map(abs, (first, second, third, other))) * TOLERANCE
    if slope == 0 or abs(third - second - slope) > size or abs(other - first - slope * _real(_LINE_POINTS[3])) > size:
        return None
    end = -first / slope
    sign = sign if slope > 0 else _MIRRORED[sign]
    is_open = sign in ("<", ">")
    pieces = {
        "=": [Piece(end, False, end, False)],
        "\\ne": [Piece(-math.inf, True, end, True), Piece(end, True, math.inf, True)],
    }.get(sign)
    if pieces is None:
        is_below = sign in ("<", "\\le")
        pieces = [Piece(-math.inf, True, end, is_open) if is_below else Piece(end, is_open, math.inf, True)]
    return pieces, name


def _end(member: Answer) -> Number | None:
    """An end of an interval: a constant or infinity."""
    if member.text.lstrip("+-") == "\\infty":
        return -math.inf if member.text.startswith("-") else math.inf
    if member.node is None or names_of(member.node) or member.unit.strip("?"):
        return None
    return _real(value_of(member.node))


def _real(value: Number) -> Number:
    """mpmath's real number, since its numbers and fractions neither compare nor subtract; FormulaError for others."""
    number = to_mp(context(), value)
    if isinstance(number, context().mpc):
        raise FormulaError("not real")
    return number


def _same(one: Number, two: Number) -> bool:
    return bool(one == two or (abs(one) < math.inf and abs(one - two) <= abs(one) * TOLERANCE))


def _below(one: Number, two: Number) -> bool:
    """Is one smaller, by more than rounding?"""
    return bool(one < two) and not _same(one, two)


def _merged(pieces: Reals) -> Reals:
    result: Reals = []
    for piece in sorted(pieces, key=lambda piece: (piece.low, piece.low_open)):
        last = result[-1] if result else None
        touches = last is not None and (
            _below(piece.low, last.high) or (_same(piece.low, last.high) and not (piece.low_open and last.high_open))
        )
        if last is None or not touches:
            result.append(piece)
            continue
        if _same(piece.low, last.low):
            last = last._replace(low_open=last.low_open and piece.low_open)
            result[-1] = last
        if _same(piece.high, last.high):
            result[-1] = last._replace(high_open=last.high_open and piece.high_open)
        elif piece.high > last.high:
            result[-1] = last._replace(high=piece.high, high_open=piece.high_open)
    return result


def _both(first: Reals, second: Reals) -> Reals:
    """The numbers in both sets."""
    result = []
    for one in first:
        for two in second:
            low, low_open = (two.low, two.low_open) if _below(one.low, two.low) else (one.low, one.low_open)
            low_open = low_open or (_same(one.low, two.low) and two.low_open)
            high, high_open = (two.high, two.high_open) if _below(two.high, one.high) else (one.high, one.high_open)
            high_open = high_open or (_same(one.high, two.high) and two.high_open)
            if _below(low, high) or (_same(low, high) and not low_open and not high_open):
                result.append(Piece(low, low_open, high, high_open))
    return _merged(result)


def _without(pieces: Reals) -> Reals:
    """The numbers that are not in a set in normal form."""
    result, low, low_open = [], -math.inf, True
    for piece in pieces:
        if _below(low, piece.low) or (_same(low, piece.low) and not low_open and piece.low_open):
            result.append(Piece(low, low_open, piece.low, not piece.low_open))
        low, low_open = piece.high, not piece.high_open
    if low < math.inf:
        result.append(Piece(low, low_open, math.inf, True))
    return result


def same_reals(first: Reals, second: Reals) -> bool:
    """True for equal sets in normal form."""
    return len(first) == len(second) and all(
        _same(one.low, two.low)
        and _same(one.high, two.high)
        and (one.low_open, one.high_open) == (two.low_open, two.high_open)
        for one, two in zip(first, second, strict=True)
    )
