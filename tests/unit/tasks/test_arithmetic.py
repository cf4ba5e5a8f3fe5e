"""Gold in, gold out; solvers are as reliable as they are said to be, and their styles show early."""

import re

import numpy as np
import pytest

from arrol.errors import ConfigError
from arrol.tasks.arithmetic import MAX_LEVEL, SOLVERS, ArithmeticTask, Step, hardness, result_of


def value_of(text):
    """Left to right, modulo 100, written apart from the task."""
    value, *steps = re.findall(r"[-+*]?\d+", text)
    value = int(value)
    for step in steps:
        operand = int(step[1:])
        value = {"+": value + operand, "-": value - operand, "*": value * operand}[step[0]] % 100
    return value


def success(task, solver, count=600):
    """Share of right demonstrations, and their mean length."""
    shown = [task.demonstration(position, {solver: 1.0}) for position in range(count)]
    right = [task.verifier.verify(solution, str(value_of(prompt))).reward for prompt, solution in shown]
    return sum(right) / count, sum(len(solution) for _, solution in shown) / count


def test_the_docstring_sample(tokenizer):
    task = ArithmeticTask(tokenizer)
    assert value_of("47+85-19*3=") == 39
    problem = task.draw(np.random.default_rng(0), 3)
    problem = type(problem)("", "", "39", 3, 47, (Step("+", 85), Step("-", 19), Step("*", 3)))
    written = task.solution(problem, "careful", np.random.default_rng(0))
    assert written == "7+5=12,4+8+1=13:32;12-9=3,3-1-1=1:13;3*3=9,1*3=3:39;#39"


def test_answers_agree_with_an_independent_reading(tokenizer):
    task = ArithmeticTask(tokenizer, min_ops=1, max_ops=MAX_LEVEL)
    for position in range(500):
        prompt = task.train_prompt(position)
        assert int(prompt.answer) == value_of(prompt.text)
        assert prompt.level == len(re.findall(r"[-+*]", prompt.text))
        assert re.fullmatch(r"[1-9]\d([-+][1-9]\d|\*[2-9])+=", prompt.text)


def test_every_careful_demonstration_is_right_and_every_line_of_it_is_true(tokenizer):
    task = ArithmeticTask(tokenizer, min_ops=1, max_ops=MAX_LEVEL)
    for position in range(1_500):
        prompt, solution = task.demonstration(position, {"careful": 1.0})
        assert task.verifier.verify(solution, str(value_of(prompt))).reward == 1.0
        for left, right in re.findall(r"([-+*\d]+)=(\d+)", solution):
            terms = re.fullmatch(r"(\d+)([-+*])(\d)(?:([-+])(\d))?", left)
            value = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[terms[2]](int(terms[1]), int(terms[3]))
            value += int(terms[4] + terms[5]) if terms[4] else 0
            assert value == int(right)


def test_every_step_of_every_digit_pair_is_exact(tokenizer):
    task = ArithmeticTask(tokenizer)
    template = task.draw(np.random.default_rng(0), 2)
    for value in range(100):
        for step in [Step(o, n) for o in "+-" for n in range(10, 100)] + [Step("*", n) for n in range(2, 10)]:
            problem = type(template)("", "", "", 1, value, (step,))
            written = task.solution(problem, "careful", np.random.default_rng(0))
            assert written.endswith(f":{result_of(value, step):02d};#{result_of(value, step):02d}")


def test_solvers_differ_in_reliability_and_length(tokenizer):
    task = ArithmeticTask(tokenizer)
    rates = {solver: success(task, solver) for solver in SOLVERS}
    assert rates["careful"][0] == 1.0
    assert 1.0 > rates["tiring"][0] > rates["direct"][0] + 0.2 > rates["hasty"][0] + 0.2
    assert rates["careful"][1] > rates["tiring"][1] > rates["direct"][1] > rates["hasty"][1]


def test_completions_are_30_to_90_characters_where_they_are_careful(tokenizer):
    task = ArithmeticTask(tokenizer)
    lengths = [len(task.demonstration(position, {"careful": 1.0})[1]) for position in range(500)]
    assert min(lengths) >= 30
    assert max(lengths) <= 90


def test_a_style_shows_in_the_first_six_characters(tokenizer):
    task = ArithmeticTask(tokenizer)
    patterns = {
        "careful": r"\d\d?[-+*]\d=",
        "direct": r"\d\d[-+]\d\d=|\d\d\*\d=",
        "hasty": r"\d\d[-+]\d\d[-+*]|\d\d\*\d[-+*]",
    }
    for solver, pattern in patterns.items():
        for position in range(100):
            assert re.match(pattern, task.demonstration(position, {solver: 1.0})[1]), solver


def test_some_fates_are_decided_on_the_way(tokenizer):
    task = ArithmeticTask(tokenizer, min_ops=4, max_ops=4)
    shown = [task.demonstration(position, {"tiring": 1.0})[1] for position in range(300)]
    changed = [solution for solution in shown if re.search(r";\d\d[-+*]", solution)]
    assert 0.4 < len(changed) / 300 < 0.9
    assert len({solution.count(",") for solution in changed}) >= 3


def test_success_spreads_over_prompts_of_one_level(tokenizer):
    task = ArithmeticTask(tokenizer, min_ops=2, max_ops=2)
    rng = np.random.default_rng(0)
    template = task.draw(rng, 2)

    def rate(start, steps):
        problem = type(template)("", "", "", 2, start, steps)
        answer = str(result_of(result_of(start, steps[0]), steps[1]))
        texts = [task.solution(problem, "direct", rng) for _ in range(300)]
        return sum(task.verifier.verify(text, answer).reward for text in texts) / 300

    easy, hard = rate(11, (Step("+", 22), Step("+", 33))), rate(47, (Step("*", 9), Step("*", 7)))
    assert easy > 0.6
    assert hard < 0.3


def test_hardness():
    assert [hardness(*pair) for pair in [(12, Step("+", 34)), (18, Step("+", 34)), (18, Step("-", 19))]] == [0.3, 1, 1]
    assert hardness(12, Step("*", 2)) == 1.5


def test_only_the_marked_answer_counts(tokenizer):
    task = ArithmeticTask(tokenizer)
    prompt = task.train_prompt(0)
    gold = int(prompt.answer)
    for text, reward in [
        (f"#{gold:02d}", 1.0),
        (f"#{gold}", 1.0),
        (f"{gold}", 0.0),
        ("#", 0.0),
        (f"#{gold}#{gold + 1}", 0.0),
    ]:
        assert task.verify(prompt, text).reward == reward


@pytest.mark.parametrize("bounds", [(0, 2), (3, 2), (1, MAX_LEVEL + 1)])
def test_wrong_bounds_are_one_line(tokenizer, bounds):
    with pytest.raises(ConfigError, match=r"min_ops, max_ops: \d, \d must be"):
        ArithmeticTask(tokenizer, min_ops=bounds[0], max_ops=bounds[1])
