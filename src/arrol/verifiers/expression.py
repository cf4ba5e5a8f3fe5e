"""Arithmetic expressions that must reach a target from given numbers.

Sample: the gold answer ``"3 5 7 = 22"`` is reached by ``3+7=10;3*5=15;#3*5+7``, but not by ``#3*5+5`` (20), by
``#7+5+5+5`` (numbers that were not given) or by ``#22``. As in the usual form of the game for language models each
number must be used exactly once; with ``use_all=False`` at most once, as on television.

A tokenizer and a recursive-descent parser read ``+ - * /``, parentheses and ASCII integers and compute with exact
fractions; Python evaluates nothing. Length, depth and number size are bounded, and the numbers are compared first, so
``9**9**9**9`` is wrong at once. Signed numbers are refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from arrol.errors import ConfigError, DataError
from arrol.types import Verdict

MAX_CHARS = 200
"""Longer expressions are wrong."""
MAX_DEPTH = 16
"""Nested parentheses."""
MAX_DIGITS = 9
"""Digits of one number."""

_TOKEN = re.compile(r" *([0-9]+|[-+*/()])")
_GOLD = re.compile(r"([0-9]{1,9}(?: [0-9]{1,9})*) = (-?[0-9]{1,18})", re.ASCII)


class Malformed(ValueError):
    """A text is not an expression of the game; never leaves this module's public functions."""


def gold_text(numbers: Sequence[int], target: int) -> str:
    """How numbers and target are written in ``Prompt.answer``: ``3 5 7 = 22``."""
    return f"{' '.join(map(str, numbers))} = {target}"


def tokens_of(text: str) -> list[str]:
    """Numbers, operators and parentheses; :class:`Malformed` for anything else."""
    if len(text) > MAX_CHARS:
        raise Malformed("too long")
    text = text.strip(" ")
    tokens, end = [], 0
    while end < len(text):
        match = _TOKEN.match(text, end)
        if match is None or len(match[1]) > MAX_DIGITS:
            raise Malformed("not a number, operator or parenthesis")
        tokens.append(match[1])
        end = match.end()
    return tokens


def value_of(tokens: Sequence[str]) -> Fraction:
    """The exact value of an expression; :class:`Malformed` when it has none."""
    parser = _Parser(tokens)
    value = parser.sum_of_terms(depth=0)
    if parser.peek():
        raise Malformed("something behind the end")
    return value


class _Parser:
    """sum = term (+|- term)*; term = factor (*|/ factor)*; factor = number | ( sum )."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tokens
        self.index = 0

    def peek(self) -> str:
        return self.tokens[self.index] if self.index < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.index += 1
        return token

    def sum_of_terms(self, depth: int) -> Fraction:
        value = self.term(depth)
        while self.peek() in ("+", "-"):
            value = value + self.term(depth) if self.take() == "+" else value - self.term(depth)
        return value

    def term(self, depth: int) -> Fraction:
        value = self.factor(depth)
        while self.peek() in ("*", "/"):
            operator, right = self.take(), self.factor(depth)
            if operator == "/" and right == 0:
                raise Malformed("division by zero")
            value = value * right if operator == "*" else value / right
        return value

    def factor(self, depth: int) -> Fraction:
        token = self.take()
        if token.isdecimal():
            return Fraction(int(token))
        if token != "(" or depth >= MAX_DEPTH:
            raise Malformed("a number or a parenthesis expected")
        value = self.sum_of_terms(depth + 1)
        if self.take() != ")":
            raise Malformed("a parenthesis stays open")
        return value


class ExpressionVerifier:
    """Right when the final expression uses the given numbers and reaches the target.

    The expression stands behind the last mark, up to the end of its line; it may end in ``=`` and the target.
    """

    def __init__(self, mark: str = "#", *, use_all: bool = True) -> None:
        if not mark:
            raise ConfigError(
                f"mark: {mark!r} is empty; give the text that announces the final expression, such as '#'"
            )
        self.mark = mark
        self.use_all = use_all

    def verify(self, text: str, answer: str) -> Verdict:
        gold = _GOLD.fullmatch(answer)
        if gold is None:
            raise DataError(f"answer: {answer[:80]!r} must read like '3 5 7 = 22' (numbers, target)")
        expression = self._final_expression(text)
        if expression is None:
            return Verdict(reward=0.0, answer=None)
        expression, _, claimed = expression.partition("=")
        right = claimed.strip() in ("", gold[2]) and self._reaches(expression, gold[1].split(), int(gold[2]))
        return Verdict(reward=float(right), answer=expression.strip())

    def _final_expression(self, text: str) -> str | None:
        start = text.rfind(self.mark)
        if start < 0:
            return None
        start += len(self.mark)
        # One character more than allowed shows that a line is too long; the rest of the text is never copied.
        line = text[start : start + MAX_CHARS + 1].partition("\n")[0].strip()
        return line if 0 < len(line) <= MAX_CHARS else None

    def _reaches(self, expression: str, given: list[str], target: int) -> bool:
        try:
            tokens = tokens_of(expression)
            used = Counter(int(token) for token in tokens if token.isdecimal())
            allowed = Counter(map(int, given))
            if used != allowed if self.use_all else not used <= allowed:
                return False
            return value_of(tokens) == target
        except Malformed:
            return False
