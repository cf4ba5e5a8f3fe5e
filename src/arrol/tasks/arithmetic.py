"""Chained two-digit arithmetic, modulo 100, from left to right.

Sample, level 3: the prompt ``47+85-19*3=`` has the answer 39. Solutions in the three styles of writing a step::

    digits   7+5=12,4+8+1=13:32;12-9=3,3-1-1=1:13;3*3=9,1*3=3:39;#39   digit by digit, with carries: exact
    result   47+85=32;32-19=13;13*3=39;#39                                  one result for each step: may slip
    merged   47+85-19=13;13*3=39;#39                                        two steps in one: slips more often

Solvers start in one style and may change it, so the first characters predict success in part. A slip is more likely at
a hard step (carry, borrow, product), which spreads success over prompts of one level. Later steps use a wrong result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from arrol.protocols import Tokenizer
from arrol.tasks.base import Problem, SyntheticTask, levels_within
from arrol.verifiers.integer import IntegerVerifier

MODULUS = 100
MARK = "#"
MAX_LEVEL = 8
SLIPS = (-10, 10, -1, 1)
"""Errors of a wrong result: a carry forgotten or invented, or one off."""
EASY, HARD, PRODUCT = 0.3, 1.0, 1.5
"""Factors on a solver's slip rate: no carry, with carry or borrow, product."""


class Step(NamedTuple):
    """One operation of the chain."""

    operator: str
    """One of ``+ - *``."""
    operand: int
    """10 .. 99, or 2 .. 9 behind ``*``."""


@dataclass(frozen=True)
class Chain(Problem):
    """A start value and the operations on it."""

    start: int
    steps: tuple[Step, ...]


class Solver(NamedTuple):
    """A way to write solutions."""

    style: str
    """Style of the first step: digits, result or merged."""
    slip_frac: float = 0.0
    """Probability of a slip at a hard step in any style but digits."""
    change_frac: float = 0.0
    """Probability, before each later step, of falling into style ``result`` for the rest."""


SOLVERS = {
    "careful": Solver("digits"),
    "tiring": Solver("digits", slip_frac=0.5, change_frac=0.35),
    "direct": Solver("result", slip_frac=0.5),
    "hasty": Solver("merged", slip_frac=0.6),
}


class ArithmeticTask(SyntheticTask[Chain]):
    """The task above; the level is the number of operations."""

    name: ClassVar[str] = "arithmetic"
    alphabet: ClassVar[str] = "0123456789+-*=,:;#"
    solvers: ClassVar[tuple[str, ...]] = tuple(SOLVERS)
    default_mixture: ClassVar[dict[str, float]] = {"careful": 0.15, "tiring": 0.15, "direct": 0.45, "hasty": 0.25}

    def __init__(
        self, tokenizer: Tokenizer, *, min_ops: int = 2, max_ops: int = 4, num_problems: int = 0, seed: int = 0
    ) -> None:
        levels = levels_within("min_ops, max_ops", min_ops, max_ops, 1, MAX_LEVEL)
        verifier = IntegerVerifier((MARK,), require_mark=True)
        super().__init__(tokenizer, verifier, levels=levels, seed=seed, num_problems=num_problems)

    def draw(self, rng: np.random.Generator, level: int) -> Chain:
        start = int(rng.integers(10, 100))
        steps = []
        for _ in range(level):
            operator = "+-*"[int(rng.integers(3))]
            steps.append(Step(operator, int(rng.integers(2, 10) if operator == "*" else rng.integers(10, 100))))
        text = f"{start}{''.join(f'{s.operator}{s.operand}' for s in steps)}="
        answer = start
        for step in steps:
            answer = result_of(answer, step)
        return Chain(key=text, text=text, answer=str(answer), level=level, start=start, steps=tuple(steps))

    def solution(self, problem: Chain, solver: str, rng: np.random.Generator) -> str:
        style, slip_frac, change_frac = SOLVERS[solver]
        value, done, parts = problem.start, 0, []
        while done < len(problem.steps):
            if done and rng.random() < change_frac:
                style = "result"
            steps = problem.steps[done : done + (2 if style == "merged" else 1)]
            if style == "digits":
                part, value = _digits(value, steps[0])
            else:
                part, value = _results(value, steps, slip_frac, rng)
            parts.append(part)
            done += len(steps)
        return f"{''.join(parts)}{MARK}{value:02d}"


def result_of(value: int, step: Step) -> int:
    """One exact step, modulo 100."""
    if step.operator == "*":
        return value * step.operand % MODULUS
    return (value + step.operand if step.operator == "+" else value - step.operand) % MODULUS


def hardness(value: int, step: Step) -> float:
    """Factor on the slip rate of a step."""
    if step.operator == "*":
        return PRODUCT
    ones, other = value % 10, step.operand % 10
    carries = ones + other > 9 if step.operator == "+" else ones < other
    return HARD if carries else EASY


def _digits(value: int, step: Step) -> tuple[str, int]:
    """A step digit by digit: ones, then tens with the carry; a digit that is too small gets a 1 in front."""
    tens, ones = divmod(value, 10)
    operator, operand = step
    if operator == "*":
        low = ones * operand
        carried = f"+{low // 10}" if low > 9 else ""
        high = tens * operand + low // 10
        left, right = f"{ones}*{operand}={low}", f"{tens}*{operand}{carried}={high}"
    elif operator == "+":
        low = ones + operand % 10
        carried = "+1" if low > 9 else ""
        high = tens + operand // 10 + low // 10
        left, right = f"{ones}+{operand % 10}={low}", f"{tens}+{operand // 10}{carried}={high}"
    else:
        borrow = int(ones < operand % 10)
        low = ones + 10 * borrow - operand % 10
        high = tens - operand // 10 - borrow
        padded = f"1{tens}" if high < 0 else f"{tens}"
        high %= 10
        borrowed = "-1" if borrow else ""
        left = f"{'1' if borrow else ''}{ones}-{operand % 10}={low}"
        right = f"{padded}-{operand // 10}{borrowed}={high}"
    result = result_of(value, step)
    return f"{left},{right}:{result:02d};", result


def _results(value: int, steps: tuple[Step, ...], slip_frac: float, rng: np.random.Generator) -> tuple[str, int]:
    """One or two steps without digits; each may slip."""
    text = f"{value:02d}" + "".join(f"{step.operator}{step.operand}" for step in steps)
    for step in steps:
        slips = rng.random() < slip_frac * hardness(value, step)
        value = result_of(value, step)
        if slips:
            value = (value + SLIPS[int(rng.integers(len(SLIPS)))]) % MODULUS
    return f"{text}={value:02d};", value
