"""Verifiers in the hosts' own forms."""

import doctest

import pytest

from arrol.integrations import rewards
from arrol.integrations.rewards import compute_score, integer_reward, math_reward


def test_examples():
    assert doctest.testmod(rewards).failed == 0


def test_chat_messages_and_text_are_read_alike():
    chat = [[{"role": "assistant", "content": "#### 12"}], [{"role": "assistant", "content": "#### 13"}]]
    assert integer_reward(completions=chat, answer=["12", "12"], prompts=[1, 2]) == [1.0, 0.0]


def test_expressions_are_compared_by_value():
    said = [r"so \boxed{\frac{1}{2}}", r"so \boxed{0.5}", r"so \boxed{2}"]
    assert math_reward(completions=said, answer=["0.5"] * 3) == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "gold", "score"),
    [("#### 1,234", "1234", 1.0), ("#### 7", "8", 0.0), (r"\boxed{x+1}", "1+x", 1.0), ("nothing", "3", 0.0)],
)
def test_compute_score_takes_numbers_and_expressions(text, gold, score):
    answer = compute_score("any", text, gold, extra_info={"index": 3})
    assert answer["score"] == answer["acc"] == score
    assert isinstance(answer["pred"], str)
