"""Search: find two of the given numbers whose sum is the target, by trying.

Sample, level 4: the prompt ``12,23,35,48=60:`` is answered by ``#12+48``. A solution is a transcript of attempts, each
with its sum, the target and whether they are equal, then the answer::

    23+35=58/60n;12+35=47/60n;12+48=60/60y;#12+48

An attempt is a random pair and one pair is right, so the number of attempts is geometric with the prompt's own rate,
1 / pairs: lengths have a heavy tail, and a prompt with many numbers is hard. The verifier accepts any sum of given
numbers that reaches the target, three of them too. The target stands beside each sum because a small model does not
learn to look it up in the prompt at the moment when it has to notice that it has found the pair (docs/log.md).

Solvers::

    patient    attempts until a pair reaches the target                              exact
    quitting   the same, but may give up after a miss and hand it in                 fails late, openly
    wishful    the same, but may write the target behind a miss and believe it       fails late, by a false result
    looping    the same, but may repeat a miss over and over and hand it in          fails at great length
    guessing   no attempt, hands in a random pair at once                            short, seldom right
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, NamedTuple

import numpy as np

from arrol.protocols import Tokenizer
from arrol.tasks.base import MAX_DRAWS, Problem, SyntheticTask, levels_within
from arrol.verifiers.expression import ExpressionVerifier, gold_text

MARK = "#"
MIN_NUMBER, MAX_NUMBER = 10, 49
MIN_LEVEL, MAX_LEVEL = 3, 12
MAX_MISSES = 23
"""Misses of one solution, at most: keeps solutions within 320 characters, end of text included."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class Search(Problem):
    """Different numbers in ascending order, a target, the pair that reaches it and the pairs that miss it."""

    numbers: tuple[int, ...]
    target: int
    hit: Pair
    misses: tuple[Pair, ...]


class Solver(NamedTuple):
    """A way to search; each probability is per miss."""

    quit_frac: float = 0.0
    """Probability of handing in the miss."""
    wish_frac: float = 0.0
    """Probability of writing the target as the sum of the miss, and so calling it equal."""
    loop_frac: float = 0.0
    """Probability of repeating the miss until the end."""
    guesses: bool = False
    """No attempt is written."""


SOLVERS = {
    "patient": Solver(),
    "quitting": Solver(quit_frac=0.4),
    "wishful": Solver(wish_frac=0.25),
    "looping": Solver(loop_frac=0.25),
    "guessing": Solver(guesses=True),
}


class SearchTask(SyntheticTask[Search]):
    """The task above; the level is how many numbers are given."""

    name: ClassVar[str] = "search"
    alphabet: ClassVar[str] = "0123456789+,=:;#/yn"
    solvers: ClassVar[tuple[str, ...]] = tuple(SOLVERS)
    default_mixture: ClassVar[dict[str, float]] = {
        "patient": 0.06,
        "quitting": 0.34,
        "wishful": 0.2,
        "looping": 0.06,
        "guessing": 0.34,
    }

    def __init__(
        self, tokenizer: Tokenizer, *, min_numbers: int = 3, max_numbers: int = 12, num_problems: int = 0, seed: int = 0
    ) -> None:
        levels = levels_within("min_numbers, max_numbers", min_numbers, max_numbers, MIN_LEVEL, MAX_LEVEL)
        verifier = ExpressionVerifier(MARK, use_all=False)
        super().__init__(tokenizer, verifier, levels=levels, seed=seed, num_problems=num_problems)

    def draw(self, rng: np.random.Generator, level: int) -> Search:
        for _ in range(MAX_DRAWS):
            chosen = rng.choice(np.arange(MIN_NUMBER, MAX_NUMBER + 1), size=level, replace=False)
            target = int(chosen[0] + chosen[1])
            numbers = tuple(sorted(int(number) for number in chosen))
            misses = tuple(pair for pair in combinations(numbers, 2) if sum(pair) != target)
            if target not in numbers and len(misses) == math.comb(level, 2) - 1:
                hit = (int(min(chosen[:2])), int(max(chosen[:2])))
                text = f"{','.join(map(str, numbers))}={target}:"
                return Search(text, text, gold_text(numbers, target), level, numbers, target, hit, misses)
        raise AssertionError("many targets have one pair; this loop ends")

    def solution(self, problem: Search, solver: str, rng: np.random.Generator) -> str:
        how = SOLVERS[solver]
        pairs = (problem.hit, *problem.misses)
        if how.guesses:
            return _answer_text(_one_of(pairs, rng))
        misses = int(rng.geometric(1 / len(pairs))) - 1
        if how == Solver():
            misses %= MAX_MISSES + 1  # the remainder of a geometric number is geometric within the limit
        parts: list[str] = []
        while len(parts) <= MAX_MISSES:
            pair = problem.hit if len(parts) == misses else _one_of(problem.misses, rng)
            result = problem.target if rng.random() < how.wish_frac else sum(pair)
            parts.append(f"{pair[0]}+{pair[1]}={result}/{problem.target}{'ny'[result == problem.target]};")
            if result == problem.target or rng.random() < how.quit_frac:
                break
            if rng.random() < how.loop_frac:
                parts += parts[-1:] * int(rng.integers(1, MAX_MISSES + 2 - len(parts)))
                break
        return f"{''.join(parts)}{_answer_text(pair)}"


def _one_of(pairs: tuple[Pair, ...], rng: np.random.Generator) -> Pair:
    return pairs[int(rng.integers(len(pairs)))]


def _answer_text(pair: Pair) -> str:
    return f"{MARK}{pair[0]}+{pair[1]}"
