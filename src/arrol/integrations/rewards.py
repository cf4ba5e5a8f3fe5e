"""arrol's verifiers as TRL reward functions and as verl's ``compute_score``.

>>> integer_reward(completions=["so 12, #39", "#40"], answer=["39", "39"])
[1.0, 0.0]
>>> compute_score("openai/gsm8k", "6 * 7 = 42 #### 42", "42")
{'score': 1.0, 'acc': 1.0, 'pred': '42'}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from arrol.protocols import Verifier
from arrol.verifiers.integer import IntegerVerifier, parse_integer
from arrol.verifiers.symbolic import SymbolicVerifier

MARKS = ("####", "#")
"""Before the final answer; without any, the last number counts."""
TrlCompletion = str | Sequence[Mapping[str, object]]
"""Text, or chat messages of which the last one is read."""


def integer_reward(completions: Sequence[TrlCompletion], answer: Sequence[str], **columns: object) -> list[float]:
    """TRL: 1 where the final integer is the column ``answer``, else 0."""
    return _rewards(_integers(), completions, answer)


def math_reward(completions: Sequence[TrlCompletion], answer: Sequence[str], **columns: object) -> list[float]:
    """TRL: 1 where math-verify finds the final expression equal to the column ``answer``, else 0; time-limited."""
    return _rewards(_expressions(), completions, answer)


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: object = None, **options: object
) -> dict[str, float | str]:
    """verl: 1 where the answer equals ``ground_truth``, else 0; an integer if that is one, else an expression."""
    is_number = parse_integer(ground_truth) is not None
    verdict = (_integers() if is_number else _expressions()).verify(solution_str, ground_truth)
    return {"score": verdict.reward, "acc": verdict.reward, "pred": verdict.answer or ""}


def _rewards(verifier: Verifier, completions: Sequence[TrlCompletion], answers: Sequence[str]) -> list[float]:
    texts = (each if isinstance(each, str) else str(each[-1]["content"]) for each in completions)
    return [verifier.verify(text, answer).reward for text, answer in zip(texts, answers, strict=True)]


@cache
def _integers() -> IntegerVerifier:
    return IntegerVerifier(MARKS)


@cache
def _expressions() -> SymbolicVerifier:
    """One worker process for all calls."""
    return SymbolicVerifier()
