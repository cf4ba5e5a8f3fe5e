r"""Is an answer equal to the gold answer? By spelling and by numbers, without algebra, within bounds.

True and False are final; None leaves the question to math-verify: equations that are no multiple of one another and not
linear, sums, integrals, limits and whatever else ``formula.py`` does not read. The rules:

1. Two numbers are equal when they are equal exactly. A decimal number of six significant digits or more also stands for
   a number that rounds to it in its last place: ``0.333333`` is 1/3, ``0.333334`` and ``0.33`` are not.
2. Two formulas are equal when they agree at points (``values.py``).
3. A list is a multiset where the gold answer repeats a member, else a set; a tuple is in order. ``a \pm b`` is a list
   of two.
4. ``x = 5`` is 5 where the gold answer is no equation; in a chain ``a = b = c`` all numbers must be equal.
5. A unit is optional, and two known units must be the same. ``50\%`` is 0.5, and 50.
6. A choice and its content (``E) 12``) are right when the one that the gold answer names is.
7. An answer that cannot be read is wrong where the gold answer can be.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from arrol.verifiers.answers import MAX_REMEMBERED, Answer, decimal_places, decimal_point, flat, read_answer
from arrol.verifiers.formula import FormulaError, Node, is_affine, names_of
from arrol.verifiers.gold import can_be_paired
from arrol.verifiers.reals import is_about_reals, reals_of, same_reals
from arrol.verifiers.values import RangeError, are_equal, context, coordinate, to_mp, value_of

MIN_DIGITS = 6
"""A decimal number with fewer significant digits stands for itself alone."""
FLOAT_DIGITS = 15
"""A decimal number of as many digits may carry the rounding of a float."""
NEEDED_RATIOS = 4
APPROXIMATE_FRAC = 0.01
"""How far the sides of ``a \\approx b`` may be apart."""

_WHOLE = re.compile(r"-?[0-9]{1,100}")
_LABEL = re.compile(r"(?:\\frac|[A-Z](?:_\{?[A-Za-z0-9]+\}?)?|[|{}/:])+")
"""A side that names a length, an area or their ratio: ``|AB|``, ``S_{1}:S``."""
_NEEDS_ALGEBRA = re.compile(
    r"\\(?:sum|int|iint|oint|prod|lim|det|max|min|gcd|lcm|b?mod|pmod|begin|sup|inf|arg|Re|Im|dbinom|partial|nabla"
    r"|overline|bar|conj|vec|hat|cap|setminus|notin|langle|lVert|Vert|operatorname|cases)(?![A-Za-z])"
)


class Equality(NamedTuple):
    """Whether two answers are equal, and why."""

    right: bool | None
    """None when algebra must decide."""
    reason: str


@lru_cache(maxsize=MAX_REMEMBERED)
def equality(found: str, gold: str, tolerance: float = 0.0) -> Equality:
    """Whether ``found`` is equal to ``gold``."""
    if found == gold and found:
        return Equality(True, "the same text")
    if not tolerance and _WHOLE.fullmatch(found) and _WHOLE.fullmatch(gold):
        return Equality(int(found) == int(gold), "whole numbers")
    one, other = read_answer(gold), read_answer(found)
    return _decided(lambda: _same(one, other, tolerance))


@lru_cache(maxsize=MAX_REMEMBERED)
def equality_of_parts(found: str, parts: tuple[str, ...], tolerance: float = 0.0) -> Equality:
    """Whether ``found`` names every part of a gold answer, in any order."""
    golds = flat(tuple(map(read_answer, parts)))
    other = read_answer(found)
    if _is_equation(other) and len(other.members) == 2 and other.members[-1].members:
        other = other.members[-1]
    if other.kind == "opaque":
        return _unread(Answer("list", "", members=golds), other)
    founds = other.members if other.kind in ("list", "set") else (other,)
    return _decided(lambda: _in_any_order(golds, founds, tolerance))


def _decided(compare: Callable[[], Equality]) -> Equality:
    """The outcome of a comparison that may meet a formula without a value."""
    try:
        return compare()
    except RangeError:
        return Equality(False, "a number out of range")
    except (FormulaError, ZeroDivisionError, OverflowError, RecursionError):
        return Equality(None, "no value at the points that were tried")


def _same(gold: Answer, found: Answer, tolerance: float = 0.0) -> Equality:
    if not found.text:
        return Equality(False, "an empty answer")
    if gold.kind == found.kind and gold.text == found.text and gold.unit == found.unit:
        return Equality(True, "the same text")
    if gold.kind == "choice":
        if found.letter:
            return Equality(found.letter == gold.letter, "choices are compared by their letters")
        return _same(gold.members[0], found, tolerance)
    if gold.letter or found.letter:
        if gold.letter and found.letter:
            return Equality(gold.letter == found.letter, "letters are compared")
        return _same(gold, found.members[0], tolerance) if found.kind == "choice" else Equality(False, "not a letter")
    if gold.kind == "relation" or found.kind == "relation":
        decided = _relations(gold, found, tolerance)
        if decided is not None:
            return decided
    if "words" in (gold.kind, found.kind):
        return _words(gold, found)
    if is_about_reals(gold) or is_about_reals(found):
        return _reals(gold, found)
    if gold.kind == found.kind == "formula":
        return _formulas(gold, found, tolerance)
    if gold.members or found.members:
        return _members(gold, found, tolerance)
    return _unread(gold, found)


def _unread(gold: Answer, found: Answer) -> Equality:
    """At least one of them is unreadable, or they are of different kinds."""
    if gold.kind == "opaque" or (found.kind == "opaque" and _NEEDS_ALGEBRA.search(found.text)):
        return Equality(None, "left to algebra")
    return Equality(False, "cannot be read" if found.kind == "opaque" else f"{found.kind} is no {gold.kind}")


def _words(gold: Answer, found: Answer) -> Equality:
    if gold.kind == found.kind:
        return Equality(gold.text == found.text, "words are compared")
    spelled = re.sub(r"\\text\{([^{}]*)\}", r"\1", found.text if found.kind != "words" else gold.text)
    other = gold.text if gold.kind == "words" else found.text
    return Equality(spelled.casefold().strip() == other, "words are compared with a formula")


def _formulas(gold: Answer, found: Answer, tolerance: float) -> Equality:
    assert gold.node is not None
    assert found.node is not None
    if gold.raw or found.raw:
        one, other = gold.raw or gold.node, found.raw or found.node
        if names_of(one) and names_of(other) and are_equal(one, other):
            return Equality(True, "equal at all points")
    if gold.unit and found.unit and gold.unit != found.unit and "?" not in gold.unit + found.unit:
        return Equality(False, f"unit {found.unit} is not {gold.unit}")
    if tolerance and not names_of(gold.node) and not names_of(found.node):
        mp = context()
        difference = abs(to_mp(mp, value_of(gold.node)) - to_mp(mp, value_of(found.node)))
        return Equality(bool(difference <= mp.mpf(tolerance) * (1 + mp.mpf(10) ** -9)), f"within {tolerance:g} or not")
    if names_of(gold.node) != names_of(found.node) and not (names_of(gold.node) and names_of(found.node)):
        return Equality(are_equal(gold.node, found.node), "one has names, the other has none")
    for one, other in _with_percent(gold, found):
        if are_equal(one, other):
            return Equality(True, "equal numbers" if not names_of(one) else "equal at all points")
    if _rounds_to(gold, found) or _rounds_to(found, gold):
        return Equality(True, "equal when rounded to the last place")
    return Equality(False, "other numbers" if not names_of(gold.node) else "different at a point")


def _with_percent(gold: Answer, found: Answer) -> list[tuple[Node, Node]]:
    """The pairs to compare: a percentage is its number, and where the other has no percent sign, a hundredth of it."""
    assert gold.node is not None
    assert found.node is not None
    pairs = [(gold.node, found.node)]
    hundredth = Node("number", number=Fraction(1, 100))
    if gold.has_percent and not found.has_percent:
        pairs.append((Node("product", (gold.node, hundredth)), found.node))
    if found.has_percent and not gold.has_percent:
        pairs.append((gold.node, Node("product", (found.node, hundredth))))
    return pairs


def _rounds_to(exact: Answer, decimal: Answer) -> bool:
    """True when the decimal number stands for the other one (rule 1)."""
    places = decimal_places(decimal.text)
    if places is None or places[0] < MIN_DIGITS or exact.has_percent != decimal.has_percent:
        return False
    assert exact.node is not None
    assert decimal.node is not None
    if names_of(exact.node) or names_of(decimal.node):
        return False
    mp = context()
    one, two = to_mp(mp, value_of(exact.node)), to_mp(mp, value_of(decimal.node))
    if isinstance(one, mp.mpc):
        return False
    difference = abs(one - two)
    if difference <= mp.mpf(10) ** places[1] * mp.mpf("0.500000001"):
        return True
    return bool(places[0] >= FLOAT_DIGITS and abs(one) < 1000 and difference <= abs(one) * mp.mpf(10) ** -12)


def _reals(gold: Answer, found: Answer) -> Equality:
    if gold.kind == "tuple" and found.kind == "tuple":
        if gold.signs != found.signs:
            return Equality(False, "other brackets")
        return _in_order(gold, found, 0.0)
    one, other = reals_of(gold), reals_of(found)
    if one is None and gold.kind == "tuple" and found.kind == "list":
        return Equality(False, "a list is no interval")
    if one is None or other is None:
        is_settled = one is not None and found.kind in ("formula", "list", "tuple", "matrix") and not _algebraic(found)
        if is_settled or (other is not None and gold.kind in ("formula", "list", "matrix")):
            return Equality(False, "other sets")
        is_wrong = gold.kind in ("formula", "list", "set") and is_about_reals(found)
        return Equality(False if is_wrong else None, "left to algebra")
    if one[1] and other[1] and one[1] != other[1]:
        return Equality(False, "other names")
    return Equality(same_reals(one[0], other[0]), "sets are compared")


def _algebraic(answer: Answer) -> bool:
    return bool(_NEEDS_ALGEBRA.search(answer.text))


def _relations(gold: Answer, found: Answer, tolerance: float) -> Equality | None:
    """Equations; None where the answers must be compared as sets."""
    golds, founds = _is_equation(gold), _is_equation(found)
    if gold.kind == found.kind == "relation":
        return _both_relations(gold, found) if golds and founds else None
    if (founds and not is_about_reals(gold)) or (founds and gold.kind == "tuple"):
        value = _value_side(found)
        if value is None:
            return Equality(False, "the equation has no single value")
        return _same(gold, value, tolerance)
    if golds and found.kind != "relation":
        if gold.members[0].is_lone_name or gold.members[0].kind == "tuple" or _LABEL.fullmatch(gold.members[0].text):
            return _same(gold.members[-1], found, tolerance)
        lone = gold.members[-1].is_lone_name and len(gold.members) == 2 and gold.members[0].node is not None
        if lone and not names_of(gold.members[0].node or Node("number")):
            return _same(gold.members[0], found, tolerance)
        return Equality(False, "not an equation")
    return None


def _is_equation(answer: Answer) -> bool:
    return answer.kind == "relation" and all(sign in ("=", "\\approx", "\\simeq") for sign in answer.signs)


def _value_side(found: Answer) -> Answer | None:
    """The side of a chain of equations that is its value; None when its numbers differ."""
    sides, signs = list(found.members), list(found.signs)
    numbers = [(side, i) for i, side in enumerate(sides) if side.node is not None and not names_of(side.node)]
    for (one, i), (other, k) in itertools.pairwise(numbers):
        if "=" in signs[i:k] and all(sign == "=" for sign in signs[i:k]):
            if not _same(one, other).right:
                return None
        elif not _are_close(one, other):
            return None
    approximate = next((i for i, sign in enumerate(signs) if sign != "="), None)
    exact = sides[: approximate + 1] if approximate is not None else sides
    if exact[-1].is_lone_name and (len(exact) > 1 or approximate is not None):
        if approximate is not None and len(exact) == 1:
            return sides[-1]
        return exact[0] if not exact[0].is_lone_name else None
    return exact[-1]


def _are_close(one: Answer, other: Answer) -> bool:
    assert one.node is not None
    assert other.node is not None
    mp = context()
    first, second = to_mp(mp, value_of(one.node)), to_mp(mp, value_of(other.node))
    return bool(abs(first - second) <= APPROXIMATE_FRAC * max(abs(first), abs(second)))


def _both_relations(gold: Answer, found: Answer) -> Equality:
    """Two equations: assignments by name and value, others when one is a multiple of the other."""
    one, other = gold.members, found.members
    if one[0].kind == other[0].kind == "tuple" or one[0].text == other[0].text:
        value = _value_side(found)
        if value is not None and (one[0].text == other[0].text):
            return _same(one[-1], value)
    ends = [side.node for side in (one[0], one[-1], other[0], other[-1])]
    if any(node is None for node in ends):
        return Equality(None, "left to algebra")
    known = [node for node in ends if node is not None]
    names = sorted(frozenset().union(*map(names_of, known)))
    if not names:
        return Equality(None, "left to algebra")
    if names_of(known[0]) | names_of(known[1]) != names_of(known[2]) | names_of(known[3]):
        return Equality(False, "other names")
    is_plain = all(sides[0].is_lone_name and not names_of(sides[-1].node or Node("number")) for sides in (one, other))
    ratios: list[object] = []
    for number in range(7):
        point = {name: coordinate(name, number) for name in names}
        try:
            values = [to_mp(context(), value_of(node, point)) for node in known]
            top, bottom = values[0] - values[1], values[2] - values[3]
            if not top or not bottom:
                continue
            ratio = top / bottom
        except (FormulaError, ZeroDivisionError):
            continue
        if ratios and abs(ratio - ratios[0]) > abs(ratio) * context().mpf(10) ** -40:
            return Equality(False if all(map(is_affine, known)) or is_plain else None, "other equations")
        ratios.append(ratio)
    return Equality(True if len(ratios) >= NEEDED_RATIOS else None, "one is a multiple of the other")


def _members(gold: Answer, found: Answer, tolerance: float) -> Equality:
    """Lists, sets, tuples and matrices."""
    if gold.kind == "matrix" or found.kind == "matrix":
        if gold.kind == found.kind:
            return _in_order(gold, found, tolerance) if gold.signs == found.signs else Equality(False, "another shape")
        return _unread(gold, found) if "opaque" in (gold.kind, found.kind) else Equality(False, "not a matrix")
    if ":" in gold.signs and ":" in found.signs:
        return _ratios(gold, found)
    if found.kind == "opaque" or gold.kind == "opaque":
        return _unread(gold, found)
    if "tuple" in (gold.kind, found.kind):
        if "formula" in (gold.kind, found.kind) or ":" in (*gold.signs, *found.signs):
            return Equality(False, f"{found.kind} is no {gold.kind}")
        if "set" in (gold.kind, found.kind):
            return Equality(False, "a tuple is no set")
        return _in_order(gold, found, tolerance)
    if "formula" in (gold.kind, found.kind) and "list" in (gold.kind, found.kind):
        return _decimal_comma(gold, found)
    golds, founds = gold.members or (gold,), found.members or (found,)
    if gold.kind == "set":
        golds, founds = _distinct(golds), _distinct(founds)
    return _in_any_order(golds, founds, tolerance)


def _decimal_comma(gold: Answer, found: Answer) -> Equality:
    """A number against a list of two: ``1,22`` may be 1.22."""
    spelled, number = (gold, found) if gold.kind == "list" else (found, gold)
    point = decimal_point(spelled.text)
    if point is None or decimal_places(number.text) is None:
        return Equality(False, f"{found.kind} is no {gold.kind}")
    return _same(read_answer(point), number)


def _distinct(members: Sequence[Answer]) -> tuple[Answer, ...]:
    kept: list[Answer] = []
    for member in members:
        if not any(_same(other, member).right for other in kept):
            kept.append(member)
    return tuple(kept)


def _in_any_order(golds: Sequence[Answer], founds: Sequence[Answer], tolerance: float) -> Equality:
    if len(founds) > len(golds) == len(_distinct(golds)):
        founds = _distinct(founds)
    if len(golds) != len(founds):
        return Equality(False, f"{len(founds)} members, not {len(golds)}")
    undecided = False

    def are_same(one: Answer, other: Answer) -> bool:
        nonlocal undecided
        decided = _same(other, one, tolerance).right
        undecided = undecided or decided is None
        return decided is True

    if can_be_paired(founds, golds, are_same):
        return Equality(True, "every member has its equal")
    return Equality(None if undecided else False, "a member has no equal")


def _in_order(gold: Answer, found: Answer, tolerance: float) -> Equality:
    if len(gold.members) != len(found.members):
        return Equality(False, f"{len(found.members)} members, not {len(gold.members)}")
    decided = [_same(*pair, tolerance).right for pair in zip(gold.members, found.members, strict=True)]
    if False in decided:
        return Equality(False, "a member is different")
    return Equality(None if None in decided else True, "members are compared in order")


def _ratios(gold: Answer, found: Answer) -> Equality:
    """``3:2`` and ``6:4`` are equal."""
    if len(gold.members) != len(found.members):
        return Equality(False, "another number of parts")
    for one, other in zip(gold.members[1:], found.members[1:], strict=True):
        left = Node("product", (gold.members[0].node or Node("number"), other.node or Node("number")))
        right = Node("product", (found.members[0].node or Node("number"), one.node or Node("number")))
        if not are_equal(left, right):
            return Equality(False, "another ratio")
    return Equality(True, "equal ratios")
