"""Values of formulas at points: exact fractions where possible, else numbers of 60 digits. Every step is bounded.

Two formulas are equal when they agree at every point where both have a real value, and at three points at least. The
points are fixed, a function of the names alone: proper fractions, numbers between 1 and 3, whole numbers, and mixed
signs. So ``\\sqrt{ab}`` equals ``\\sqrt{a}\\sqrt{b}`` (both are real for positive a and b) and ``|x|`` is not ``x``.
Formulas with ``i`` in them, and constants, are complex.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from arrol.verifiers.formula import FormulaError, Node, names_of, uses

DIGITS = 60
"""Precision of a value; three times of it where two values are nearly zero."""
MAX_BITS = 65_536
"""Longer numerators and denominators are rounded."""
MAX_MAGNITUDE = 10.0**9
"""Decimal exponent of the largest number."""
MAX_ANGLE_EXPONENT = 100
"""Binary exponent of the largest angle."""
NEEDED_POINTS = 3
KINDS_OF_POINTS = ("fraction", "positive", "positive", "whole", "whole", "whole", "mixed", "mixed")

Number = Any
"""A Fraction, or mpmath's real or complex number; mpmath has no types."""
Point = Mapping[str, Fraction]


class DomainError(FormulaError):
    """The formula has no real value at this point."""


class RangeError(FormulaError):
    """A number is too large to be computed within the bounds."""


_contexts = threading.local()


def context(digits: int = DIGITS) -> Any:
    """mpmath's arithmetic of this thread in a precision."""
    from mpmath import MPContext

    known = _contexts.__dict__.setdefault("by_digits", {})
    if digits not in known:
        known[digits] = MPContext()
        known[digits].dps = digits
    return known[digits]


@lru_cache(maxsize=4096)
def coordinate(name: str, number: int) -> Fraction:
    """The value of a name at a point."""
    seed = int.from_bytes(blake2b(f"{name} {number}".encode(), digest_size=6).digest(), "big")
    kind = KINDS_OF_POINTS[number]
    if kind == "whole":
        return Fraction(2 + seed % 7 + 7 * (number % 2))
    part = Fraction(1 + seed % 9973, 9974 + 2 * (number % 3))
    if kind == "fraction":
        return part
    sign = -1 if kind == "mixed" and (seed >> 20) % (2 + number % 2) == 0 else 1
    return sign * (1 + 2 * part)


def value_of(node: Node, point: Point | None = None, *, digits: int = DIGITS, log_base: int = 10) -> Number:
    """The value of a formula; FormulaError when it has none within the bounds."""
    return _Evaluation(node, point or {}, digits, log_base).value(node)


def are_equal(first: Node, second: Node) -> bool:
    """True when the formulas agree (the rule above); FormulaError when it cannot be told."""
    names = sorted(names_of(first) | names_of(second))
    bases = (10, 0) if uses(first, "log") or uses(second, "log") else (10,)
    return any(_agree(first, second, names, base) for base in bases)


def _agree(first: Node, second: Node, names: list[str], log_base: int) -> bool:
    if not names:
        return same_value(first, second, {}, log_base)
    agreed = 0
    for number in range(len(KINDS_OF_POINTS)):
        point = {name: coordinate(name, number) for name in names}
        try:
            if not same_value(first, second, point, log_base):
                return False
        except (DomainError, ZeroDivisionError):
            continue
        agreed += 1
    if agreed < NEEDED_POINTS:
        raise FormulaError("too few points at which both formulas are real")
    return True


def same_value(first: Node, second: Node, point: Point, log_base: int = 10) -> bool:
    """True when both have one value at a point."""
    for digits in (DIGITS, 3 * DIGITS):
        one = value_of(first, point, digits=digits, log_base=log_base)
        two = value_of(second, point, digits=digits, log_base=log_base)
        if isinstance(one, Fraction) and isinstance(two, Fraction):
            return one == two
        arithmetic = context(digits)
        one, two = to_mp(arithmetic, one), to_mp(arithmetic, two)
        difference, size = abs(one - two), max(abs(one), abs(two))
        if difference <= size * arithmetic.mpf(10) ** (15 - digits):
            return True
        if size > arithmetic.mpf(10) ** (-digits // 2):
            return False
    return bool(difference < arithmetic.mpf(10) ** (30 - digits))


def to_mp(arithmetic: Any, value: Number) -> Number:
    if isinstance(value, Fraction):
        return arithmetic.mpf(value.numerator) / value.denominator
    return value


class _Evaluation:
    """One walk through a formula."""

    def __init__(self, node: Node, point: Point, digits: int, log_base: int) -> None:
        self.point = point
        self.mp = context(digits)
        self.log_base = log_base
        self.is_real = bool(point) and not uses(node, "constant", "i")

    def value(self, node: Node) -> Number:
        if node.kind == "number":
            return node.number
        if node.kind == "name":
            return self.point[node.name]
        if node.kind == "constant":
            return {"pi": +self.mp.pi, "e": +self.mp.e, "i": self.mp.mpc(0, 1)}[node.name]
        parts = [self.value(part) for part in node.parts]
        if node.kind in ("sum", "product"):
            return self.folded(node.kind, parts)
        if node.kind == "quotient":
            return self.divided(*parts)
        if node.kind == "power":
            return self.power(*parts)
        if node.kind == "root":
            return self.root(*parts)
        if node.kind in ("factorial", "binomial"):
            return self.counted(node.kind, parts)
        if node.kind in ("floor", "ceil", "abs"):
            return self.rounded(node.kind, parts[0])
        return self.function(node.kind, parts)

    def folded(self, kind: str, parts: list[Number]) -> Number:
        result = parts[0]
        for part in parts[1:]:
            if isinstance(result, Fraction) and isinstance(part, Fraction):
                result = self.bounded(result + part if kind == "sum" else result * part)
            else:
                one, two = self.mpf(result), self.mpf(part)
                result = one + two if kind == "sum" else one * two
        return result

    def divided(self, top: Number, bottom: Number) -> Number:
        if bottom == 0:
            raise ZeroDivisionError("division by zero")
        if isinstance(top, Fraction) and isinstance(bottom, Fraction):
            return self.bounded(top / bottom)
        return self.mpf(top) / self.mpf(bottom)

    def power(self, base: Number, exponent: Number) -> Number:
        if base == 0:
            if self.mp.re(self.mpf(exponent)) < 0:
                raise ZeroDivisionError("a negative power of zero")
            return Fraction(exponent == 0)
        is_whole = isinstance(exponent, Fraction) and exponent.denominator == 1
        if is_whole and isinstance(base, Fraction):
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if bits * abs(exponent) <= MAX_BITS:
                return base ** int(exponent)
        size = abs(self.mpf(exponent)) * abs(self.mp.log(abs(self.mpf(base)), 10))
        if size > MAX_MAGNITUDE or abs(self.mpf(exponent)) > MAX_MAGNITUDE:
            raise RangeError("a number out of range")
        if is_whole:
            return self.mpf(base) ** int(exponent)
        return self.checked(self.mp.power(self.mpf(base), self.mpf(exponent)))

    def root(self, value: Number, index: Number) -> Number:
        if not isinstance(index, Fraction) or index.denominator != 1 or not 1 <= index <= 1000:
            return self.power(value, self.divided(Fraction(1), index))
        number, degree = self.mpf(value), int(index)
        if isinstance(value, Fraction) and (exact := _exact_root(value, degree)) is not None:
            return exact
        if degree % 2 and not isinstance(number, self.mp.mpc) and number < 0:
            return -self.mp.root(-number, degree)
        return self.checked(self.mp.sqrt(number) if degree == 2 else self.mp.root(number, degree))

    def counted(self, kind: str, parts: list[Number]) -> Number:
        if all(isinstance(part, Fraction) and part.denominator == 1 and 0 <= part <= 3000 for part in parts):
            whole = [int(part) for part in parts]
            return Fraction(math.factorial(whole[0]) if kind == "factorial" else math.comb(*whole))
        numbers = [self.mpf(part) for part in parts]
        if any(abs(number) > 10**8 for number in numbers):
            raise RangeError("a number out of range")
        try:
            return self.mp.factorial(numbers[0]) if kind == "factorial" else self.mp.binomial(*numbers)
        except ValueError:
            raise ZeroDivisionError("a pole") from None

    def rounded(self, kind: str, value: Number) -> Number:
        if kind == "abs":
            return abs(value)
        if isinstance(value, self.mp.mpc):
            raise DomainError("not real")
        if not isinstance(value, Fraction) and abs(self.mpf(value)) > 10**30:
            raise RangeError("a number out of range")
        if isinstance(value, Fraction):
            return Fraction(math.floor(value) if kind == "floor" else math.ceil(value))
        return Fraction(int(self.mp.floor(value) if kind == "floor" else self.mp.ceil(value)))

    def function(self, name: str, parts: list[Number]) -> Number:
        number = self.mpf(parts[0])
        if name in ("ln", "log", "logarithm"):
            if number == 0:
                raise ZeroDivisionError("the logarithm of zero")
            result = self.mp.log(number)
            if name == "log" and self.log_base:
                result /= self.mp.log(self.log_base)
            elif name == "logarithm":
                result = self.divided(result, self.mp.log(self.mpf(parts[1])))
            return self.checked(result)
        if self.mp.mag(abs(number)) > MAX_ANGLE_EXPONENT or (name in _GROWING and abs(number) > MAX_MAGNITUDE):
            raise RangeError("a number out of range")
        function = _FUNCTIONS.get(name)
        if function is None:
            raise FormulaError(f"no function {name}")
        return self.checked(getattr(self.mp, function)(number))

    def mpf(self, value: Number) -> Number:
        return to_mp(self.mp, value)

    def bounded(self, value: Fraction) -> Number:
        return (
            value if max(value.numerator.bit_length(), value.denominator.bit_length()) <= MAX_BITS else self.mpf(value)
        )

    def checked(self, value: Number) -> Number:
        """The value; DomainError for one that is not real where it must be."""
        if isinstance(value, self.mp.mpc):
            if value.imag == 0:
                return value.real
            if self.is_real:
                raise DomainError("not real")
        return value


_GROWING = ("exp", "sinh", "cosh", "tanh")
_FUNCTIONS = {
    **{name: name for name in ["sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "exp"]},
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "sqrt": "sqrt",
}


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    """The root of a perfect power that is not negative."""
    if value < 0 or degree != 2:
        return None
    top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
    return Fraction(top, bottom) if top * top == value.numerator and bottom * bottom == value.denominator else None
