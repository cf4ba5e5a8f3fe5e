"""Countdown: reach a target from given numbers, each used exactly once.

Sample, level 3: the prompt ``3,5,7=22:`` is answered by ``#3*5+7``. A solution is a transcript of attempts with
intermediate results, then the expression::

    3+7=10*5=50;5*7=35-3=32;3*5=15+7=22;#3*5+7

An attempt joins the numbers from left to right within 1 .. 99; the verifier accepts any expression.

Solvers::

    patient    attempts until one reaches the target                                 exact
    quitting   the same, but may give up after a miss and hand in what it has        fails late, openly
    wishful    the same, but may write the target behind a miss and believe it       fails late, by a false result
    guessing   no attempt, hands in a chain at once                                  short, seldom right

The demonstrator knows the right chain, since it made the problem; the policy must learn to search for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from typing import ClassVar, NamedTuple

import numpy as np

from arrol.errors import ConfigError
from arrol.protocols import Tokenizer
from arrol.tasks.base import MAX_DRAWS, Problem, SyntheticTask, is_held_out, levels_within
from arrol.verifiers.expression import ExpressionVerifier, gold_text

MARK = "#"
MAX_VALUE = 99
"""Largest intermediate result of a solver's attempt, and largest target."""
MIN_NUMBER, MIN_TARGET = 2, 10
MAX_MISSES = {2: 3, 3: 4, 4: 3, 5: 2}
"""Attempts before the right one, by level: keeps solutions below about 90 characters."""


class Chain(NamedTuple):
    """Numbers joined from left to right: ``((n0 op0 n1) op1 n2) ...``."""

    numbers: tuple[int, ...]
    operators: str


@dataclass(frozen=True)
class Countdown(Problem):
    """Numbers in ascending order, a target, and one chain that reaches it."""

    numbers: tuple[int, ...]
    target: int
    chain: Chain


class Solver(NamedTuple):
    """A way to search."""

    quit_frac: float = 0.0
    """Probability of handing in the last attempt after a miss."""
    wish_frac: float = 0.0
    """Probability of writing the target as the result of a miss."""
    guess_frac: float | None = None
    """Probability that a guess without attempts is right; None for solvers that attempt."""


SOLVERS = {
    "patient": Solver(),
    "quitting": Solver(quit_frac=0.5),
    "wishful": Solver(wish_frac=0.5),
    "guessing": Solver(guess_frac=0.15),
}


class CountdownTask(SyntheticTask[Countdown]):
    """The task above; the level is how many numbers are given."""

    name: ClassVar[str] = "countdown"
    alphabet: ClassVar[str] = "0123456789+-*/(),=:;#"
    solvers: ClassVar[tuple[str, ...]] = tuple(SOLVERS)
    default_mixture: ClassVar[dict[str, float]] = {"patient": 0.15, "quitting": 0.25, "wishful": 0.3, "guessing": 0.3}

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        min_numbers: int = 3,
        max_numbers: int = 4,
        max_number: int = 12,
        division: bool = False,
        num_problems: int = 0,
        seed: int = 0,
    ) -> None:
        levels = levels_within("min_numbers, max_numbers", min_numbers, max_numbers, 2, max(MAX_MISSES))
        largest = MAX_VALUE // max_numbers
        if not MIN_TARGET <= max_number <= largest:
            raise ConfigError(f"max_number: {max_number} must lie within {MIN_TARGET} .. {largest}")
        self.operators = "+-*/" if division else "+-*"
        self.max_number = max_number
        super().__init__(tokenizer, ExpressionVerifier(MARK), levels=levels, seed=seed, num_problems=num_problems)

    @cached_property
    def num_held_out(self) -> int:
        """Counted over all chains of all numbers: a second at four numbers."""
        drawn = range(MIN_NUMBER, self.max_number + 1)
        return sum(
            is_held_out(_text(numbers, target))
            for level in self.levels
            for numbers in combinations_with_replacement(drawn, level)
            for target in self._reachable(numbers)
            if target >= MIN_TARGET and target not in numbers
        )

    def _reachable(self, numbers: tuple[int, ...], value: int | None = None) -> set[int]:
        """Results of all chains that begin with ``value``, if any, and use all numbers."""
        if not numbers:
            return {value} if value is not None else set()
        found: set[int] = set()
        for place, number in enumerate(numbers):
            if number in numbers[:place]:
                continue
            rest = numbers[:place] + numbers[place + 1 :]
            nexts = [number] if value is None else [step for o in self.operators if (step := _step(value, o, number))]
            for step in set(nexts):
                found |= self._reachable(rest, step)
        return found

    def draw(self, rng: np.random.Generator, level: int) -> Countdown:
        for _ in range(MAX_DRAWS):
            # one number at a time: the same numbers as with size=level, in half the time
            numbers = tuple(sorted(int(rng.integers(MIN_NUMBER, self.max_number + 1)) for _ in range(level)))
            chain = self._attempt(rng, numbers)
            target = results_of(chain)[-1]
            if target >= MIN_TARGET and target not in numbers:
                text = _text(numbers, target)
                return Countdown(text, text, gold_text(numbers, target), level, numbers, target, chain)
        raise AssertionError("sums of numbers alone give targets; this loop ends")

    def solution(self, problem: Countdown, solver: str, rng: np.random.Generator) -> str:
        how = SOLVERS[solver]
        if how.guess_frac is not None:
            chain = problem.chain if rng.random() < how.guess_frac else self._attempt(rng, problem.numbers)
            return f"{MARK}{expression_of(chain)}"
        parts, chain = [], problem.chain
        for misses_left in range(int(rng.integers(MAX_MISSES[problem.level] + 1)), -1, -1):
            chain = self._attempt(rng, problem.numbers) if misses_left else problem.chain
            results = results_of(chain)
            if rng.random() < how.wish_frac:
                results[-1] = problem.target
            parts.append(_attempt_text(chain, results))
            if results[-1] == problem.target or rng.random() < how.quit_frac:
                break
        return f"{''.join(parts)}{MARK}{expression_of(chain)}"

    def _attempt(self, rng: np.random.Generator, numbers: tuple[int, ...]) -> Chain:
        """A random chain of the numbers whose results are integers within 1 .. MAX_VALUE."""
        order = tuple(numbers[i] for i in rng.permutation(len(numbers)))
        for _ in range(64):
            chosen = [int(rng.integers(len(self.operators))) for _ in numbers[1:]]
            chain = Chain(order, "".join(self.operators[i] for i in chosen))
            if results_of(chain):
                return chain
        return Chain(order, "+" * (len(numbers) - 1))  # a sum always fits: the constructor checks it


def results_of(chain: Chain) -> list[int]:
    """All results in order; empty when one is no integer within 1 .. MAX_VALUE."""
    value, results = chain.numbers[0], []
    for operator, number in zip(chain.operators, chain.numbers[1:], strict=True):
        value = _step(value, operator, number)
        if not value:
            return []
        results.append(value)
    return results


def _step(value: int, operator: str, number: int) -> int:
    """The result, or 0 when it is no integer within 1 .. MAX_VALUE."""
    if operator == "/" and value % number:
        return 0
    result = _apply(value, operator, number)
    return result if 1 <= result <= MAX_VALUE else 0


def _text(numbers: Sequence[int], target: int) -> str:
    return f"{','.join(map(str, numbers))}={target}:"


def expression_of(chain: Chain) -> str:
    """The chain with the parentheses it needs and no others: ``(3+5)*7``."""
    text, is_sum = str(chain.numbers[0]), False
    for operator, number in zip(chain.operators, chain.numbers[1:], strict=True):
        if operator in "*/" and is_sum:
            text = f"({text})"
        text += f"{operator}{number}"
        is_sum = operator in "+-"
    return text


def _attempt_text(chain: Chain, results: list[int]) -> str:
    """``3*5=15+7=22;``, with the results as written."""
    steps = zip(chain.operators, chain.numbers[1:], results, strict=True)
    return f"{chain.numbers[0]}{''.join(f'{operator}{number}={result}' for operator, number, result in steps)};"


def _apply(value: int, operator: str, number: int) -> int:
    if operator == "+":
        return value + number
    if operator == "-":
        return value - number
    return value * number if operator == "*" else value // number
