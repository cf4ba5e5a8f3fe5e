r"""Answers of one problem, sorted into classes of equals: what a vote counts.

Sample: ``0.5, \frac{1}{2}, None, 27.0, 1/2, 27`` are the classes ``0, 0, -1, 1, 0, 1``.

1. An answer that is absent, blank, too long or nested too deep is unreadable: class -1.
2. Spellings with the same key (``canonical.py``) are one class: plain numbers, choice letters, equal texts.
3. Other spellings are compared symbolically, the most frequent first, with the first spelling of each class. An answer
   joins one class, so classes are transitive although the comparison is not (it equates 1/3 with 0.333333 and with
   0.3333333).
4. Most comparisons need no algebra: a letter is no number, and numbers that are clearly apart differ. The value of a
   formula is computed once per spelling, not per pair.

Bounds: at most :data:`MAX_QUESTIONS` questions and :data:`BUDGET_S` seconds for a problem; further spellings are then
classes of their own, and ``complete`` is False. A spelling that killed the worker is never compared again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from arrol.types import Verdict
from arrol.verifiers.canonical import Key, answer_key
from arrol.verifiers.comparison import equality
from arrol.verifiers.rules import unreadable

UNREADABLE = -1
MAX_QUESTIONS = 400
"""Questions to algebra for one problem."""
BUDGET_S = 60.0
"""Seconds of symbolic comparisons for one problem."""
_HARMLESS = "0"


class Algebra(Protocol):
    """Symbolic comparisons within a time limit, as :class:`~arrol.verifiers.symbolic.SymbolicVerifier` makes them."""

    def same(self, found: str, answer: str) -> Verdict: ...


class AnswerClasses(NamedTuple):
    """Classes of equal answers."""

    ids_N: list[int]
    """Class of each answer, numbered from 0 in order of first appearance; -1 where nothing can be read."""
    num_questions: int
    """Questions that algebra was asked."""
    complete: bool
    """False when a bound, or an answer that ran out of time, left comparisons undone."""


def answer_classes(
    answers: Sequence[str | None],
    algebra: Algebra | None = None,
    *,
    max_questions: int = MAX_QUESTIONS,
    budget_s: float = BUDGET_S,
) -> AnswerClasses:
    """Classes of the answers of one problem; without algebra only spellings are compared."""
    keys = [_key(answer) for answer in answers]
    spellings: dict[Key, str] = {}
    for key, answer in zip(keys, answers, strict=True):
        if key is not None and answer is not None:
            spellings.setdefault(key, answer.strip())
    counts = Counter(key for key in keys if key is not None)
    search = _Search(algebra, spellings, max_questions, time.monotonic() + budget_s)
    representatives: list[Key] = []
    class_of: dict[Key, Key] = {}
    for key in sorted(spellings, key=lambda key: -counts[key]):  # stable: ties in order of appearance
        joined = next((other for other in representatives if search.are_same(key, other)), None)
        class_of[key] = joined or key
        if joined is None:
            representatives.append(key)
    numbers: dict[Key, int] = {}
    ids = [UNREADABLE if key is None else numbers.setdefault(class_of[key], len(numbers)) for key in keys]
    return AnswerClasses(ids, search.num_questions, search.complete)


def _key(answer: str | None) -> Key | None:
    if answer is None or not answer.strip() or unreadable(answer):
        return None
    key = answer_key(answer)
    return None if key.value == "" else key


class _Search:
    """Counts questions against their bounds and remembers spellings that killed the worker."""

    def __init__(
        self, algebra: Algebra | None, spellings: Mapping[Key, str], max_questions: int, deadline: float
    ) -> None:
        self.algebra = algebra
        self.spellings = spellings
        self.max_questions = max_questions
        self.deadline = deadline
        self.num_questions = 0
        self.complete = True
        self._hostile: set[Key] = set()

    def are_same(self, key: Key, other: Key) -> bool:
        """Are two spellings with different keys the same answer?"""
        if key.is_final and other.is_final:
            return False
        one, two = self.spellings[key], self.spellings[other]
        decided = [equality(one, two).right]
        if not decided[0]:
            decided.append(equality(two, one).right)
        if True in decided:
            return True
        if self.algebra is None or None not in decided:
            return False
        if key in self._hostile or other in self._hostile:
            self.complete = False
            return False
        for found, gold in [
            pair for pair, right in zip([(one, two), (two, one)], decided, strict=True) if right is None
        ]:
            verdict = self._same(found, gold)
            if verdict is not None and verdict.timed_out:
                self._hostile.update(k for k in (key, other) if self._is_hostile(k))
                return False
            if verdict is not None and verdict.reward == 1.0:
                return True
        return False

    def _is_hostile(self, key: Key) -> bool:
        verdict = self._same(self.spellings[key], _HARMLESS)
        return verdict is None or verdict.timed_out

    def _same(self, found: str, gold: str) -> Verdict | None:
        """A verdict; None when the bounds are reached."""
        assert self.algebra is not None
        if not self._may_ask():
            return None
        verdict = self.algebra.same(found, gold)
        self.complete = self.complete and not verdict.timed_out
        return verdict

    def _may_ask(self) -> bool:
        """Count a question, unless the bounds are reached."""
        if self.num_questions >= self.max_questions or time.monotonic() >= self.deadline:
            self.complete = False
            return False
        self.num_questions += 1
        return True
