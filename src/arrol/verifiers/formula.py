r"""Formulas read from LaTeX or plain text by a parser of our own: no eval, bounded depth and size.

Sample: ``\frac{1}{2}x^2`` is ``Node("product", (Node("quotient", ...), Node("power", ...)))``.

Read are numbers (``4.5e33``, ``0.1\overline{6}``), names, Greek letters, ``\pi``, ``e``, ``i``, ``+ - * / ^ ! %``,
fractions, mixed numbers, roots, binomials, absolute values, floors and ceilings, and the elementary functions, also
spelled as in Python (``np.arcsin(10/13)``, ``2**3``). A name is one letter with an optional index. Everything else, two
numbers side by side too, is an error: it is left to math-verify.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

MAX_NODES_DEEP = 60
"""Deeper formulas are not read."""

_GREEK_WORDS = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon"
    " phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar"
)
_GREEK = frozenset(_GREEK_WORDS.split())
_FUNCTION_WORDS = "sin cos tan cot sec csc sinh cosh tanh exp ln log abs sqrt arcsin arccos arctan"
_FUNCTIONS = {
    **{name: name for name in _FUNCTION_WORDS.split()},
    **{f"a{name}": f"arc{name}" for name in ("sin", "cos", "tan")},
    "lg": "log",
}
_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:\\overline\{?\d+\}?)?(?:[eE][-+]?\d{1,9}(?!\d))?)"
    r"|(?:(?:np|numpy|math|sp|sympy)\.)?"
    r"(?P<word>arcsin|arccos|arctan|asin|acos|atan|sinh|cosh|tanh|sqrt|sin|cos|tan|exp|log|ln|abs|pi)"
    r"(?![A-Za-z])"
    r"|(?P<command>\\[A-Za-z]+|\\[%{}])"
    r"|(?P<power>\*\*)|(?P<name>[A-Za-z]'*)|(?P<sign>[-+*/^!%(){}\[\]|_,])",
    re.ASCII,
)
_TIMES = ("*", "\\cdot", "\\times", "\\ast")
_OVER = ("/", "\\div")
_FRACTIONS = ("\\frac", "\\dfrac", "\\tfrac", "\\cfrac")
_CLOSING = {"(": ")", "{": "}", "[": "]", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil", "\\lvert": "\\rvert", "|": "|"}
_BRACKET_FUNCTIONS = {"\\lfloor": "floor", "\\lceil": "ceil", "\\lvert": "abs", "|": "abs"}


class FormulaError(ValueError):
    """The text is no formula that this parser reads."""


class Node(NamedTuple):
    """A formula."""

    kind: str
    """number, name, constant, sum, product, quotient, power, root, log, binomial, factorial, or a function's name."""
    parts: tuple[Node, ...] = ()
    name: str = ""
    number: Fraction = Fraction(0)


_MINUS_ONE = Node("number", number=Fraction(-1))


def parse_formula(text: str) -> Node:
    """The formula that is the whole of ``text``; FormulaError when it is none."""
    return _Parser(text).whole()


def names_of(node: Node) -> frozenset[str]:
    """The names in a formula."""
    if node.kind == "name":
        return frozenset((node.name,))
    return frozenset().union(*map(names_of, node.parts))


def is_affine(node: Node) -> bool:
    """True when a formula is a sum of constants and of names times constants, as it is written."""
    if node.kind == "sum":
        return all(map(is_affine, node.parts))
    if node.kind == "product":
        return sum(bool(names_of(part)) for part in node.parts) <= 1 and all(map(is_affine, node.parts))
    if node.kind == "quotient":
        return is_affine(node.parts[0]) and not names_of(node.parts[1])
    return node.kind == "name" or not names_of(node)


def uses(node: Node, kind: str, name: str = "") -> bool:
    """True when a node of that kind and name is in the formula."""
    return (node.kind == kind and node.name == name) or any(uses(part, kind, name) for part in node.parts)


def literal(text: str) -> Fraction:
    """The exact value of a number token."""
    text, _, repeated = text.partition("\\overline")
    if repeated:
        digits, _, exponent = re.sub(r"[{}]", "", repeated).lower().partition("e")
        head = Fraction(text.rstrip(".") if "." not in text[:-1] else text)
        places = len(text.partition(".")[2])
        return (head + Fraction(int(digits), (10 ** len(digits) - 1) * 10**places)) * Fraction(10) ** int(exponent or 0)
    mantissa, _, exponent = text.lower().partition("e")
    if len(exponent.lstrip("+-")) > 4:
        raise FormulaError("an exponent out of range")
    return Fraction(mantissa.rstrip(".") if mantissa.endswith(".") else mantissa) * Fraction(10) ** int(exponent or 0)


class _Parser:
    """Recursive descent; one token of look-ahead."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        self.at = 0
        self.depth = 0
        self.bars = 0
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise FormulaError(f"cannot read {text[position : position + 10]!r}")
            position = match.end()
            if match.lastgroup != "space":
                self.tokens.append((match.lastgroup, match[match.lastgroup]))

    @property
    def next(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    @property
    def next_kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        if self.at >= len(self.tokens):
            raise FormulaError("the formula ends too early")
        self.at += 1
        return self.tokens[self.at - 1][1]

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise FormulaError(f"{token!r} is missing")

    def whole(self) -> Node:
        node = self.sum()
        if self.at < len(self.tokens):
            raise FormulaError(f"cannot read {self.next!r} here")
        return node

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_NODES_DEEP:
            raise FormulaError("nested too deep")
        parts = [self.product()]
        while self.next in ("+", "-"):
            sign = self.take()
            part = self.product()
            parts.append(_negative(part) if sign == "-" else part)
        self.depth -= 1
        return parts[0] if len(parts) == 1 else Node("sum", tuple(parts))

    def product(self) -> Node:
        is_negative = False
        while self.next in ("+", "-"):
            is_negative ^= self.take() == "-"
        node = self.factor()
        while True:
            if self.next in _TIMES:
                self.take()
                node = Node("product", (node, self.signed_factor()))
            elif self.next in _OVER:
                self.take()
                node = Node("quotient", (node, self.signed_factor()))
            elif self.begins_factor():
                node = self.implicit(node)
            else:
                return _negative(node) if is_negative else node

    def signed_factor(self) -> Node:
        if self.next in ("+", "-"):
            sign = self.take()
            node = self.factor()
            return _negative(node) if sign == "-" else node
        return self.factor()

    def implicit(self, left: Node) -> Node:
        """A product without a sign, or a mixed number."""
        previous = self.tokens[self.at - 1]
        if self.next_kind == "number" and (previous[0] in ("number", "name") or previous[1] in "!%"):
            raise FormulaError("two numbers side by side")
        is_mixed = previous[0] == "number" and self.next in _FRACTIONS and left.kind == "number"
        right = self.factor()
        if is_mixed and left.number.denominator == 1 and right.kind == "quotient":
            top, bottom = right.parts
            if top.kind == bottom.kind == "number" and 0 < top.number < bottom.number:
                return Node("sum", (left, right))
        return Node("product", (left, right))

    def begins_factor(self) -> bool:
        if self.next == "|":
            return not self.bars
        if self.next_kind == "command":
            return self.next not in (*_TIMES, *_OVER, "\\rfloor", "\\rceil", "\\rvert", "\\%", "\\circ", "\\}")
        return self.next_kind in ("number", "word", "name") or self.next in ("(", "{", "[")

    def factor(self) -> Node:
        """A base with its powers, factorials and percent signs."""
        node = self.base()
        while True:
            if self.next == "!":
                self.take()
                node = Node("factorial", (node,))
            elif self.next in ("%", "\\%"):
                self.take()
                node = Node("product", (node, Node("number", number=Fraction(1, 100))))
            elif self.next == "^" or self.next_kind == "power":
                self.take()
                node = self.powered(node)
            else:
                return node

    def powered(self, base: Node) -> Node:
        if self.tokens[self.at : self.at + 1] == [("command", "\\circ")]:
            self.take()
            return _in_degrees(base)
        if [token for _, token in self.tokens[self.at : self.at + 3]] == ["{", "\\circ", "}"]:
            self.at += 3
            return _in_degrees(base)
        self.depth += 1
        if self.depth > MAX_NODES_DEEP:
            raise FormulaError("nested too deep")
        exponent = self.exponent()
        self.depth -= 1
        return Node("power", (base, exponent))

    def exponent(self) -> Node:
        if self.next == "{":
            return self.group("{")
        if self.next in ("+", "-"):
            sign = self.take()
            node = self.exponent()
            return _negative(node) if sign == "-" else node
        node = self.base()
        if self.next == "^" or self.next_kind == "power":
            self.take()
            return self.powered(node)
        return node

    def group(self, opening: str) -> Node:
        self.expect(opening)
        bars, self.bars = self.bars, int(opening in ("|", "\\lvert"))
        node = self.sum()
        self.bars = bars
        self.expect(_CLOSING[opening])
        return node

    def argument(self) -> Node:
        """What TeX takes as an argument: a group in braces, or one token, one digit of a number."""
        if self.next == "{":
            return self.group("{")
        if self.next_kind == "number" and len(self.next) > 1:
            digit, rest = self.next[0], self.next[1:]
            if not digit.isdigit() or not rest.isdigit():
                raise FormulaError("an argument without braces")
            self.tokens[self.at] = ("number", rest)
            return Node("number", number=Fraction(digit))
        return self.base()

    def base(self) -> Node:
        kind, token = self.next_kind, self.take()
        if kind == "number":
            return Node("number", number=literal(token))
        if token in ("(", "{", "[", "|", "\\lfloor", "\\lceil", "\\lvert"):
            self.at -= 1
            node = self.group(token)
            return Node(_BRACKET_FUNCTIONS[token], (node,)) if token in _BRACKET_FUNCTIONS else node
        if kind in ("command", "word"):
            return self.command(token.removeprefix("\\"))
        if kind == "name":
            return Node("constant", name=token) if token in ("e", "i") else self.named(token)
        raise FormulaError(f"cannot read {token!r} here")

    def named(self, name: str) -> Node:
        """A name with its index."""
        if self.next != "_":
            return Node("name", name=name)
        self.take()
        if self.next != "{":
            return Node("name", name=f"{name}_{self.take()}")
        self.take()
        index = []
        while self.next != "}":
            index.append(self.take())
        self.take()
        return Node("name", name=f"{name}_{''.join(index)}")

    def command(self, word: str) -> Node:
        if word == "pi":
            return Node("constant", name="pi")
        if word in _GREEK:
            return self.named({"varepsilon": "epsilon", "varphi": "phi", "vartheta": "theta"}.get(word, word))
        if f"\\{word}" in _FRACTIONS:
            return Node("quotient", (self.argument(), self.argument()))
        if word in ("binom", "dbinom", "tbinom"):
            return Node("binomial", (self.argument(), self.argument()))
        if word == "sqrt":
            index = self.group("[") if self.next == "[" else Node("number", number=Fraction(2))
            return Node("root", (self.argument(), index))
        if word in _FUNCTIONS:
            return self.function(_FUNCTIONS[word])
        raise FormulaError(f"cannot read \\{word}")

    def function(self, name: str) -> Node:
        base = power = None
        if name == "log" and self.next == "_":
            self.take()
            base = self.argument()
        if self.next == "^":
            self.take()
            power = self.exponent()
        if power == _MINUS_ONE or power == _negative(Node("number", number=Fraction(1))):
            name, power = _INVERSES.get(name, ""), None
            if not name:
                raise FormulaError("an inverse function")
        value = self.function_argument()
        node = Node("logarithm", (value, base)) if base else Node(name, (value,))
        return Node("power", (node, power)) if power else node

    def function_argument(self) -> Node:
        """A group in brackets, or the factors up to the next sign or function."""
        if self.next in ("(", "{", "["):
            return self.group(self.next)
        node = self.signed_factor()
        while self.begins_factor() and self.next.removeprefix("\\") not in _FUNCTIONS:
            node = self.implicit(node)
        return node


def _negative(node: Node) -> Node:
    return Node("product", (_MINUS_ONE, node))


def _in_degrees(node: Node) -> Node:
    half_turn = Node("quotient", (Node("constant", name="pi"), Node("number", number=Fraction(180))))
    return Node("product", (node, half_turn))
