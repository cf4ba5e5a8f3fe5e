"""Warnings about a file of samples whose numbers may mean less than they seem to: each with its count."""

from __future__ import annotations

import re
from collections.abc import Sequence

from arrol.evaluation.judging import FROM_FILE, JudgedProblem, is_by_function
from arrol.verifiers.extraction import MAX_CHARS
from arrol.verifiers.gold import read_gold

WORDS_OF_A_SOLUTION, WORDS_OF_PROSE = 10, 4
"""A gold answer of so many words, LaTeX commands left out, is a worked solution, or a sentence."""
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


def cautions_of(judged: Sequence[JudgedProblem]) -> list[str]:
    """Warnings: gold answers that are worked solutions or that algebra cannot read, and mostly unreadable answers."""
    golds = [
        (one.problem.key, one.problem.answer)
        for one in judged
        if one.problem.answer is not None
        and any(sample.verifier != FROM_FILE and sample.success is None for sample in one.samples)
    ]
    solutions = [(key, gold) for key, gold in golds if is_solution(gold)]
    others = [(key, gold) for key, gold in golds if not is_solution(gold) and is_unreadable(gold)]
    found = []
    if solutions:
        found.append(
            f"{len(solutions)} of {len(golds)} gold answers look like worked solutions without #### or \\boxed{{}}, as "
            f"of problem {solutions[0][0]!r}; mark the answer in them, or name its column: --column answer=NAME"
        )
    if others:
        key, gold = others[0]
        found.append(
            f"{len(others)} of {len(golds)} gold answers cannot be read as mathematics, as {gold[:60]!r} of problem "
            f"{key!r}; only the same spelling counts as right there"
        )
    if is_by_function(judged):
        return []
    num_samples = sum(len(one.samples) for one in judged)
    num_unreadable = sum(int((one.class_N < 0).sum()) for one in judged)
    if 2 * num_unreadable > num_samples:
        found.append(
            f"{num_unreadable} of {num_samples} completions hold no readable answer; eval --out FILE writes why, and "
            "--mark TEXT names the text before an answer"
        )
    return found


def is_solution(gold: str) -> bool:
    """True for a gold answer of several lines or many words."""
    return any(
        len([line for line in part.splitlines() if line.strip()]) > 1 or len(_WORD.findall(part)) >= WORDS_OF_A_SOLUTION
        for part in read_gold(gold).parts
    )


def is_unreadable(gold: str) -> bool:
    """True for a sentence, for braces that do not close, and for a text that is too long to compare."""
    return any(
        len(_WORD.findall(part)) >= WORDS_OF_PROSE or part.count("{") != part.count("}") or len(part) > MAX_CHARS
        for part in read_gold(gold).parts
    )
