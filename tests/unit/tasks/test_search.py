"""Gold in, gold out; transcripts are true where their solver is; lengths have a heavy tail, prompts are hard."""

import re
from itertools import takewhile

import numpy as np
import pytest

from arrol.errors import ConfigError
from arrol.tasks.search import MAX_MISSES, MAX_NUMBER, MIN_NUMBER, SOLVERS, SearchTask
from arrol.verifiers.expression import gold_text

ATTEMPT = re.compile(r"(\d\d)\+(\d\d)=(\d\d)/(\d\d)([yn])")


def gold_of(prompt):
    numbers, target = prompt.rstrip(":").split("=")
    return gold_text([int(n) for n in numbers.split(",")], int(target))


def success(task, solver, count=500):
    shown = [task.demonstration(position, {solver: 1.0}) for position in range(count)]
    return sum(task.verifier.verify(solution, gold_of(prompt)).reward for prompt, solution in shown) / count


def attempts_of(solution):
    """(first number, second number, written sum) of every attempt; its sign must fit the sum and the target."""
    *attempts, _ = solution.split(";")
    found = [ATTEMPT.fullmatch(attempt).groups() for attempt in attempts]
    assert all((total == target) == (sign == "y") for _, _, total, target, sign in found)
    return [tuple(map(int, one[:3])) for one in found]


def test_the_docstring_sample(tokenizer):
    task, gold = SearchTask(tokenizer), "12 23 35 48 = 60"
    assert task.verifier.verify("23+35=58/60n;12+35=47/60n;12+48=60/60y;#12+48", gold).reward == 1.0
    assert task.verifier.verify("#48+12=60", gold).reward == 1.0
    assert task.verifier.verify("#12+13+35", gold).reward == task.verifier.verify("#60", gold).reward == 0.0
    assert task.verifier.verify("#12+23+35", "12 23 35 48 = 70").reward == 1.0


def test_problems_are_well_formed_and_have_one_right_pair(tokenizer):
    task = SearchTask(tokenizer)
    rng = np.random.default_rng(0)
    for turn in range(400):
        problem = task.draw(rng, 3 + turn % 10)
        assert list(problem.numbers) == sorted(set(problem.numbers))
        assert min(problem.numbers) >= MIN_NUMBER
        assert max(problem.numbers) <= MAX_NUMBER
        assert len(problem.numbers) == problem.level
        assert problem.target not in problem.numbers
        assert problem.answer == gold_of(problem.text)
        assert sum(problem.hit) == problem.target
        assert {*problem.hit} <= {*problem.numbers}
        assert len(problem.misses) == problem.level * (problem.level - 1) // 2 - 1
        assert all(sum(pair) != problem.target for pair in problem.misses)


def test_every_patient_demonstration_is_right_and_every_sum_in_it_is_true(tokenizer):
    task = SearchTask(tokenizer)
    for position in range(1_000):
        prompt, solution = task.demonstration(position, {"patient": 1.0})
        assert task.verifier.verify(solution, gold_of(prompt)).reward == 1.0
        target = int(prompt.rstrip(":").split("=")[1])
        attempts = attempts_of(solution)
        assert all(left + right == total for left, right, total in attempts)
        assert [total == target for *_, total in attempts] == [False] * (len(attempts) - 1) + [True]
        assert solution.endswith(f";#{attempts[-1][0]}+{attempts[-1][1]}")


def test_the_number_of_attempts_is_geometric_with_the_prompts_rate(tokenizer):
    task = SearchTask(tokenizer, min_numbers=4, max_numbers=4)
    counts = [len(attempts_of(task.demonstration(position, {"patient": 1.0})[1])) for position in range(1_500)]
    assert np.mean(counts) == pytest.approx(6, abs=0.6)  # four numbers have six pairs
    assert np.std(counts) == pytest.approx(np.sqrt(30), abs=0.9)


def test_solvers_differ_in_reliability(tokenizer):
    task = SearchTask(tokenizer)
    rates = {solver: success(task, solver) for solver in SOLVERS}
    assert rates["patient"] == 1.0
    assert 0.1 < rates["quitting"] < 0.3
    assert 0.1 < rates["wishful"] < 0.4
    assert 0.1 < rates["looping"] < 0.4
    assert rates["guessing"] < 0.15


def test_wishes_are_false_sums_and_quitting_is_open(tokenizer):
    task = SearchTask(tokenizer)
    for position in range(200):
        for solver, claims in (("wishful", True), ("quitting", False)):
            prompt, solution = task.demonstration(position, {solver: 1.0})
            left, right, total = attempts_of(solution)[-1]
            if left + right != (target := int(prompt.rstrip(":").split("=")[1])) and solution.count(";") <= MAX_MISSES:
                assert (total == target) == claims
                assert (total == left + right) != claims


def test_a_loop_repeats_one_miss_to_the_end_and_hands_it_in(tokenizer):
    task = SearchTask(tokenizer)
    longest = 0
    for position in range(300):
        _, solution = task.demonstration(position, {"looping": 1.0})
        attempts = attempts_of(solution)
        longest = max(longest, len(list(takewhile(lambda attempt, last=attempts[-1]: attempt == last, attempts[::-1]))))
        assert solution.endswith(f";#{attempts[-1][0]}+{attempts[-1][1]}")
    assert longest > 20


def test_lengths_have_a_heavy_tail_and_solutions_stay_within_320_characters(tokenizer):
    """What the task is for: 16 steps of 256 rollouts as the default mixture writes them, eos included."""
    task = SearchTask(tokenizer)
    lengths = np.array([len(task.demonstration(position)[1]) + 1 for position in range(4_096)])
    assert lengths.max() <= 320
    assert lengths.std() / lengths.mean() > 0.8
    steps = lengths.reshape(16, 256)
    tail = 1 - np.quantile(steps, 0.9, axis=1) / steps.max(axis=1)  # decode steps for the longest tenth
    assert tail.mean() > 0.3


def test_a_third_of_the_levels_is_hard_without_patience(tokenizer):
    mixture = {"quitting": 0.4, "wishful": 0.2, "looping": 0.05, "guessing": 0.35}
    rates = {}
    for level in range(3, 13):
        task = SearchTask(tokenizer, min_numbers=level, max_numbers=level)
        shown = [task.demonstration(position, mixture) for position in range(400)]
        rates[level] = np.mean([task.verifier.verify(text, gold_of(prompt)).reward for prompt, text in shown])
    assert rates[3] > 0.4
    assert max(rates[level] for level in (10, 11, 12)) < 0.08


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_numbers": 2}, r"min_numbers, max_numbers: 2, 12 must be ordered and within 3 .. 12"),
        ({"min_numbers": 5, "max_numbers": 4}, r"min_numbers, max_numbers: 5, 4 must be ordered and within 3 .. 12"),
        ({"max_numbers": 13}, r"min_numbers, max_numbers: 3, 13 must be ordered and within 3 .. 12"),
    ],
)
def test_wrong_bounds_are_one_line(tokenizer, fields, message):
    with pytest.raises(ConfigError, match=message):
        SearchTask(tokenizer, **fields)
