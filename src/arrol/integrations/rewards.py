"""Our verifiers in the forms that hosts call: TRL's reward functions, verl's ``compute_score``.

>>> integer_reward(completions=["so 12, #39", "#40"], answer=["39", "39"])
[1.0, 0.0]
>>> compute_score("openai/gsm8k", "6 * 7 = 42 #### 42", "42")
{'score': 1.0, 'acc': 1.0, 'pred': '42'}
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from arrol.protocols import Verifier
from arrol.verifiers.integer import IntegerVerifier
from arrol.verifiers.symbolic import SymbolicVerifier

MARKS = ("####", "#")
"""Before the final answer; without any, the last number counts."""


def integer_reward(completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float]:
    """TRL: 1 where the final integer is the column ``answer``, else 0."""
    return _rewards(_integers(), completions, answer)


def math_reward(completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float]:
    """TRL: 1 where math-verify finds the final expression equal to the column ``answer``, else 0; time-limited."""
    return _rewards(_expressions(), completions, answer)


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, **options: Any
) -> dict[str, Any]:
    """verl: 1 where the final integer, or failing that the final expression, equals ``ground_truth``, else 0."""
    is_number = ground_truth.strip().lstrip("-").replace(",", "").isdecimal()
    verdict = (_integers() if is_number else _expressions()).verify(solution_str, ground_truth)
    return {"score": verdict.reward, "acc": verdict.reward, "pred": verdict.answer or ""}


def completion_text(completion: Any) -> str:
    """Plain text, or the content of the last message."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def _rewards(verifier: Verifier, completions: Sequence[Any], answer: Sequence[str]) -> list[float]:
    return [
        verifier.verify(completion_text(completion), gold).reward
        for completion, gold in zip(completions, answer, strict=True)
    ]


@cache
def _integers() -> IntegerVerifier:
    return IntegerVerifier(MARKS)


@cache
def _expressions() -> SymbolicVerifier:
    """One worker process for all calls."""
    return SymbolicVerifier()
