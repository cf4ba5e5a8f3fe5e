r"""Answers of one problem, sorted into classes of equals: what a vote counts.

Sample: ``0.5, \frac{1}{2}, None, 27.0, 1/2, 27`` are the classes ``0, 0, -1, 1, 0, 1``.

1. An answer that is absent, blank, too long or nested too deep cannot be read: class -1.
2. Spellings with the same key (``canonical.py``) are one class at once: plain numbers, choice letters, equal texts.
3. What is left is compared symbolically, the most frequent spelling first, with the first spelling of each class there
   is. A class is joined once and for ever, so the classes are transitive by construction, even though the comparison is
   not (0.333333 and 1/3 are the same to it, and so are 1/3 and 0.3333333, but exactly they are three numbers).
4. Two plain numbers that are not near, two letters, or a letter and a number are different without being asked about.

Bounds: at most :data:`MAX_COMPARISONS` comparisons and :data:`BUDGET_S` seconds for a problem; what is left then stays
a class of its own, and ``complete`` is False. When a comparison runs out of time, both spellings are compared with 0,
and one that runs out of time again is never asked about any more.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from arrol.types import Verdict
from arrol.verifiers.canonical import Key, answer_key, are_near
from arrol.verifiers.symbolic import MAX_CHARS, is_deep

UNREADABLE = -1
MAX_COMPARISONS = 400
"""Symbolic comparisons for one problem."""
BUDGET_S = 60.0
"""Seconds of symbolic comparisons for one problem."""
_HARMLESS = "0"
_RELATIONS = ("=", "<", ">", "\\le", "\\ge", "\\in")

Same = Callable[[str, str], Verdict]
"""Is the first answer the second one? ``SymbolicVerifier.same``, within its time limit."""


class AnswerClasses(NamedTuple):
    """Which answers are one."""

    ids_N: list[int]
    """Class of each answer, numbered from 0 in order of first appearance; -1 where nothing can be read."""
    num_comparisons: int
    """Symbolic comparisons that were made."""
    complete: bool
    """False when a bound, or an answer that ran out of time, left comparisons undone."""


def answer_classes(
    answers: Sequence[str | None],
    same: Same | None = None,
    *,
    max_comparisons: int = MAX_COMPARISONS,
    budget_s: float = BUDGET_S,
) -> AnswerClasses:
    """Classes of the answers of one problem; without ``same`` only the spellings are looked at."""
    keys: list[Key | None] = [_key(answer) for answer in answers]
    spellings: dict[Key, str] = {}
    for key, answer in zip(keys, answers, strict=True):
        if key is not None and answer is not None:
            spellings.setdefault(key, answer.strip())
    counts = Counter(key for key in keys if key is not None)
    search = _Search(same, max_comparisons, time.monotonic() + budget_s)
    representatives: list[Key] = []
    class_of: dict[Key, Key] = {}
    for key in sorted(spellings, key=lambda key: -counts[key]):  # stable: ties in order of appearance
        joined = next((other for other in representatives if search.are_same(key, other, spellings)), None)
        class_of[key] = joined or key
        if joined is None:
            representatives.append(key)
    numbers: dict[Key, int] = {}
    ids = [UNREADABLE if key is None else numbers.setdefault(class_of[key], len(numbers)) for key in keys]
    return AnswerClasses(ids, search.num_comparisons, search.complete)


def _key(answer: str | None) -> Key | None:
    if answer is None or not answer.strip() or len(answer) > MAX_CHARS or is_deep(answer):
        return None
    key = answer_key(answer)
    return None if key.value == "" else key


class _Search:
    """Comparisons within their bounds, and the spellings that are not worth another one."""

    def __init__(self, same: Same | None, max_comparisons: int, deadline: float) -> None:
        self.same = same
        self.left = max_comparisons
        self.deadline = deadline
        self.num_comparisons = 0
        self.complete = True
        self._hostile: set[Key] = set()

    def are_same(self, key: Key, other: Key, spellings: dict[Key, str]) -> bool:
        """Are two spellings with different keys the same answer?"""
        if self.same is None or _are_different(key, other):
            return False
        if key in self._hostile or other in self._hostile:
            self.complete = False
            return False
        one, two = spellings[key], spellings[other]
        pairs = [(one, two)]
        if any(mark in one or mark in two for mark in _RELATIONS):
            pairs.append((two, one))  # x = 5 is 5, but the comparison knows it one way round only
        for found, gold in pairs:
            verdict = self._asked(found, gold)
            if verdict is not None and verdict.timed_out:
                self._hostile.update(k for k in (key, other) if self._is_hostile(spellings[k]))
                return False
            if verdict is not None and verdict.reward == 1.0:
                return True
        return False

    def _is_hostile(self, spelling: str) -> bool:
        verdict = self._asked(spelling, _HARMLESS)
        return verdict is None or verdict.timed_out

    def _asked(self, found: str, gold: str) -> Verdict | None:
        """A verdict; None when the bounds are reached."""
        assert self.same is not None
        if self.left <= 0 or time.monotonic() >= self.deadline:
            self.complete = False
            return None
        self.left -= 1
        self.num_comparisons += 1
        verdict = self.same(found, gold)
        self.complete = self.complete and not verdict.timed_out
        return verdict


def _are_different(one: Key, other: Key) -> bool:
    """Different without being asked about (point 4)."""
    if isinstance(one.value, str) or isinstance(other.value, str):
        return "text" not in (one.kind, other.kind)
    return not are_near(one.value, other.value)
