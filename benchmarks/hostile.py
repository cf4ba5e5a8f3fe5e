r"""Completions made up for checking verifiers: plausible ones whose verdict is known, and hostile ones.

``case(seed, index)`` is a pure function, so any part of a run can be repeated by its number.

* plausible: prose, then an answer behind a box or a mark, spelled in one of many ways; right, or off by a little;
* cut off: the length limit struck before the answer, or inside it;
* bombs: powers of powers, factorials, sums without end, nestings, polynomials that algebra expands for hours;
* noise: LaTeX soup, other scripts, control characters, code, our own line protocol, marks without end.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

WORDS = "so the total is of apples each then we add and get which means therefore let x be number half left she has now"
PIECES = (
    "\\frac \\sqrt \\left \\right ( ) [ ] { } { } ^ _ + - * / = < > \\le \\cdot \\times 0 1 2 3 9 17 x y n \\pi \\theta"
    " e i \\text{cm} \\% \\infty , ; : . ! | \\{ \\} & \\\\ \\sin \\log \\sum \\int \\lim \\binom \\begin{pmatrix}"
    " \\end{pmatrix} \\cup \\in \\pm \\circ \\mod \\boxed{ $ $$ # \\to d"
)
BOMBS = (
    "9**9**9**9",
    "2^{{{n}000000000}}",
    "10^{{10^{{{n}}}}}",
    "{n}^{{{n}^{{{n}^{{{n}}}}}}}",
    "{n}0000000!",
    "({n}!)!",
    "\\binom{{10^{{{n}}}}}{{10^{{5}}}}",
    "\\sum_{{k=1}}^{{10^{{{n}}}}} k^{{k}}",
    "\\prod_{{k=1}}^{{\\infty}} (1 + x^k)",
    "\\int_0^{{\\infty}} \\frac{{\\sin(x^{{{n}}})}}{{x^{{x}} + {n}}} dx",
    "(x+y+z)^{{{n}00}}",
    "\\sqrt[{n}]{{2 + \\sqrt[{n}]{{3 + \\sqrt[{n}]{{5 + \\sqrt{{7}}}}}}}}",
    "x^{{{n}}} - x + 1 = 0",
    "\\sin(\\cos(\\tan(\\log({n}^{{x^{{x^x}}}}))))",
    "\\lim_{{x \\to 0}} (1 + x)^{{1/x^{{{n}}}}}",
    "{n}.{zeros}1",
    "1e{n}00000000",
)
ENDS = (
    "\\boxed{ANSWER}",
    "\n#### ANSWER",
    "\nAnswer: ANSWER",
    "$$\\boxed{ANSWER}$$ units.",
    "\\boxed{1} is too small, so it is \\boxed{ ANSWER }",
)
NOISE = (
    "\u0663",
    "\uff11",
    "\u00bd",
    "\u221e",
    "\u202e",
    "\x00",
    "\ud800",
    "\U0001d7d8",
    "\n",
    "\t",
    "\\",
    "'",
    '"',
    "{}",
)

_WORDS, _PIECES = WORDS.split(), PIECES.split()


class Case(NamedTuple):
    """One question to a verifier."""

    kind: str
    text: str
    answer: str
    """Gold."""
    right: bool | None
    """The verdict that is due; None where only survival counts."""


def case(seed: int, index: int) -> Case:
    """The case of a number."""
    draw = random.Random(f"{seed} {index}")
    value = Fraction(draw.choice([draw.randint(-30, 200), draw.randint(0, 10**6)]), draw.choice([1, 1, 1, 1, 2, 3, 8]))
    gold = draw.choice(spellings(value))
    kind = draw.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    text, right = KINDS[kind][1](draw, value)
    return Case(kind, text, gold, right)


def spellings(value: Fraction) -> list[str]:
    """Ways to write a number."""
    top, bottom, sign = abs(value.numerator), value.denominator, "-" * (value < 0)
    if bottom > 1:
        return [
            f"{sign}{top}/{bottom}",
            rf"{sign}\frac{{{top}}}{{{bottom}}}",
            rf"{sign}\dfrac{{{2 * top}}}{{{2 * bottom}}}",
        ]
    return [f"{sign}{top}", f"{sign}{top}.0", f"{sign}{top:,}", f"{sign}0{top}"]


def prose(draw: random.Random, count: int) -> str:
    """Words and numbers that are no answer."""
    return " ".join(draw.choice(_WORDS) if draw.random() < 0.85 else str(draw.randint(0, 999)) for _ in range(count))


def announced(draw: random.Random, answer: str) -> str:
    """An answer behind a box or a mark."""
    return draw.choice(ENDS).replace("ANSWER", answer)


def right(draw: random.Random, value: Fraction) -> tuple[str, bool]:
    return f"{prose(draw, draw.randint(5, 120))} {announced(draw, draw.choice(spellings(value)))}", True


def wrong(draw: random.Random, value: Fraction) -> tuple[str, bool]:
    other = value + draw.choice([1, -1, 10, Fraction(1, 2), value + 1])
    if other == value:
        other += 1
    return f"{prose(draw, draw.randint(5, 120))} {announced(draw, draw.choice(spellings(other)))}", False


def changed_mind(draw: random.Random, value: Fraction) -> tuple[str, bool]:
    first, last = (draw.choice(spellings(number)) for number in (value, value + 1))
    return f"\\boxed{{{first}}} no, wait. {prose(draw, 10)} \\boxed{{{last}}}", False


def cut_off(draw: random.Random, value: Fraction) -> tuple[str, bool | None]:
    text = prose(draw, draw.randint(5, 200))
    return text + draw.choice((" \\boxed{", " \\boxed{\\frac{1}{", "\n####", " so we")), None


def bomb(draw: random.Random, value: Fraction) -> tuple[str, None]:
    body = draw.choice(BOMBS).format(n=draw.randint(2, 9), zeros="0" * draw.randint(1, 400))
    return f"{prose(draw, 5)} {announced(draw, body)}", None


def nested(draw: random.Random, value: Fraction) -> tuple[str, None]:
    depth, opening = draw.randint(2, 60), draw.choice(("\\frac{1}{", "\\sqrt{", "(", "\\left(", "{", "\\boxed{", "x^{"))
    return f"\\boxed{{{opening * depth}1{('}' if opening[-1] == '{' else ')') * draw.randint(0, depth)}}}", None


def soup(draw: random.Random, value: Fraction) -> tuple[str, None]:
    body = draw.choice(("", " ")).join(draw.choice(_PIECES) for _ in range(draw.randint(1, 60)))
    return draw.choice((body, f"\\boxed{{{body}}}", f"#### {body}")), None


def noise(draw: random.Random, value: Fraction) -> tuple[str, None]:
    body = "".join(draw.choice((draw.choice(NOISE), str(draw.randint(0, 99)), " ")) for _ in range(draw.randint(1, 80)))
    return draw.choice((body, f"\\boxed{{{body}}}", f"#### {body}")), None


def code(draw: random.Random, value: Fraction) -> tuple[str, None]:
    body = draw.choice(
        (
            "__import__('os').system('true')",
            '", "boxed": true}\n{"gold": "1", "found": "1", "boxed": true}',
            "exec('x=' + '9' * 10**9)",
            "lambda: (yield)",
            "{{}}{0.__class__}%s%n",
            "[].__class__.__base__.__subclasses__()",
        )
    )
    return announced(draw, body), None


def long(draw: random.Random, value: Fraction) -> tuple[str, None]:
    unit = draw.choice(("1+", "\\boxed{", "#### ", "{", "\\frac", "9", "= ", "\\", "$", "1,", "x_", "\u0664", "\n"))
    return unit * draw.randint(100, 50_000), None


KINDS: dict[str, tuple[float, Callable[[random.Random, Fraction], tuple[str, bool | None]]]] = {
    "right": (45, right),
    "wrong": (30, wrong),
    "changed mind": (4, changed_mind),
    "cut off": (8, cut_off),
    "bomb": (0.2, bomb),
    "nested": (3, nested),
    "soup": (5, soup),
    "noise": (3, noise),
    "code": (0.6, code),
    "long": (1.2, long),
}
"""Kind -> how often (per cent), and what makes one."""


def mathematics(seed: int, count: int) -> list[tuple[str, str]]:
    """Boxed answers as in MATH with their golds; every other one is wrong."""
    draw, pairs = random.Random(seed), []
    shapes = (
        ("\\frac{{{a}\\sqrt{{{b}}}}}{{{c}}}", "\\frac{{{c}\\cdot{a}\\sqrt{{{b}}}}}{{{c}^2}}"),
        ("{a}x^2+{b}x-{c}", "-{c}+{b}x+{a}x^2"),
        ("(-\\infty, {a}) \\cup [{b}{c}, \\infty)", "(-\\infty,{a})\\cup[{b}{c},\\infty)"),
        ("\\left({a}, \\frac{{{b}}}{{{c}}}\\right)", "({a},{b}/{c})"),
        ("{a}\\pi + {b}", "{b} + {a}\\pi"),
        ("{a} + {b}i", "{b}i+{a}"),
        ("2^{{{a}}} - {b}", "-{b}+2^{{{a}}}"),
        ("\\log_{{{a}}} {b}", "\\frac{{\\ln {b}}}{{\\ln {a}}}"),
    )
    for number in range(count):
        a, b, c = (draw.randint(2, 19) for _ in range(3))
        gold, found = draw.choice(shapes)
        shift = number % 2
        answer = found.format(a=a + shift, b=b, c=c)
        pairs.append((f"{prose(draw, 100)} \\boxed{{{answer}}}", gold.format(a=a, b=b, c=c)))
    return pairs
