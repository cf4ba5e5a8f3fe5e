"""Verdicts without algebra: a pure function of the completion and the gold answer.

Extraction (``extraction.py``) finds the answer and its mark; comparison (``comparison.py``) tells whether it is equal
to the gold answer. Both verifiers start here; ``SymbolicVerifier`` asks math-verify where this leaves a question open.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from arrol.types import Verdict
from arrol.verifiers.comparison import Equality, equality, equality_of_parts
from arrol.verifiers.extraction import MAX_CHARS, Found, final_answer
from arrol.verifiers.gold import Gold, read_gold

MAX_DEPTH = 24
"""Nested brackets of any kind."""
MAX_REMEMBERED = 8192
"""Answers whose verdicts are kept."""
RULES = "rules"
"""``Verdict.verifier`` of verdicts that needed no algebra."""

_BRACKET = re.compile(r"[(\[{)\]}]")


class Judged(NamedTuple):
    """A verdict, or the question that is left to algebra."""

    verdict: Verdict
    """Wrong where a question is left."""
    is_open: bool = False
    """True when algebra must decide."""


def judged(text: str, answer: str, marks: Sequence[str], *, require_mark: bool = False) -> Judged:
    """The verdict on a completion."""
    return judged_answer(final_answer(text, marks, require_mark=require_mark), answer)


@lru_cache(maxsize=MAX_REMEMBERED)
def judged_answer(found: Found, answer: str) -> Judged:
    """The verdict on an answer that is extracted already."""
    if found.text is None:
        return Judged(Verdict(0.0, None, mark=found.mark, verifier=RULES, reason=found.reason))
    if reason := unreadable(found.text):
        return Judged(Verdict(0.0, found.text, mark=found.mark, verifier=RULES, reason=reason))
    equal = against_gold(found.text, read_gold(answer))
    verdict = Verdict(float(equal.right is True), found.text, mark=found.mark, verifier=RULES, reason=equal.reason)
    return Judged(verdict, is_open=equal.right is None)


def against_gold(found: str, gold: Gold) -> Equality:
    """An answer against the parts of a gold answer."""
    if len(gold.parts) > 1 and gold.need_all:
        return equality_of_parts(found, gold.parts, gold.tolerance)
    results = [equality(found, part, gold.tolerance) for part in gold.parts]
    return next((one for one in results if one.right), next((one for one in results if one.right is None), results[0]))


def unreadable(found: str) -> str:
    """Why an answer is not read at all; empty when it is."""
    if len(found) > MAX_CHARS:
        return "the answer is too long"
    if is_deep(found):
        return "nested too deep"
    if not found.isascii() and any(character.isdecimal() and not character.isascii() for character in found):
        return "digits of another script"
    return ""


def is_deep(text: str) -> bool:
    """True when brackets nest deeper than :data:`MAX_DEPTH`."""
    depth = 0
    for bracket in _BRACKET.findall(text):
        depth += 1 if bracket in "{[(" else -1
        if depth > MAX_DEPTH:
            return True
    return False
