"""Gold in, gold out; transcripts are true where their solver is, and false where it wishes."""

import hashlib
import itertools
import re

import numpy as np
import pytest

from arrol.errors import ConfigError
from arrol.tasks.base import is_held_out
from arrol.tasks.countdown import MAX_VALUE, SOLVERS, Chain, CountdownTask, expression_of, results_of
from arrol.verifiers.expression import gold_text, tokens_of, value_of


def gold_of(prompt):
    numbers, target = prompt.rstrip(":").split("=")
    return gold_text([int(n) for n in numbers.split(",")], int(target))


def success(task, solver, count=500):
    shown = [task.demonstration(position, {solver: 1.0}) for position in range(count)]
    return sum(task.verifier.verify(solution, gold_of(prompt)).reward for prompt, solution in shown) / count


def test_the_docstring_sample(tokenizer):
    task = CountdownTask(tokenizer)
    assert task.verifier.verify("3+7=10*5=50;5*7=35-3=32;3*5=15+7=22;#3*5+7", "3 5 7 = 22").reward == 1.0
    assert results_of(Chain((3, 5, 7), "*+")) == [15, 22]
    assert results_of(Chain((3, 5), "-")) == results_of(Chain((50, 50), "*")) == results_of(Chain((7, 2), "/")) == []


def test_expressions_have_the_parentheses_they_need():
    assert expression_of(Chain((3, 5, 7), "+*")) == "(3+5)*7"
    assert expression_of(Chain((3, 5, 7, 2), "+*-")) == "(3+5)*7-2"
    assert expression_of(Chain((3, 5, 7, 2), "*+*")) == "(3*5+7)*2"
    assert expression_of(Chain((9, 3, 2), "/+")) == "9/3+2"


@pytest.mark.parametrize("division", [False, True])
def test_problems_are_well_formed_and_chains_agree_with_the_verifiers_arithmetic(tokenizer, division):
    task = CountdownTask(tokenizer, min_numbers=2, max_numbers=5, division=division)
    rng = np.random.default_rng(0)
    operators = set()
    for turn in range(400):
        problem = task.draw(rng, 2 + turn % 4)
        assert problem.numbers == tuple(sorted(problem.chain.numbers))
        assert len(problem.numbers) == problem.level
        assert 10 <= problem.target <= MAX_VALUE
        assert problem.answer == gold_of(problem.text)
        assert value_of(tokens_of(expression_of(problem.chain))) == problem.target == results_of(problem.chain)[-1]
        operators |= set(problem.chain.operators)
    assert operators == set("+-*/" if division else "+-*")


def test_every_patient_demonstration_is_right_and_every_result_in_it_is_true(tokenizer):
    task = CountdownTask(tokenizer)
    for position in range(1_000):
        prompt, solution = task.demonstration(position, {"patient": 1.0})
        assert task.verifier.verify(solution, gold_of(prompt)).reward == 1.0
        *attempts, _ = solution.split(";")
        assert attempts
        for attempt in attempts:
            for left, operator, right, result in re.findall(r"(?=(?<!\d)(\d+)([-+*])(\d+)=(\d+))", attempt):
                assert value_of([left, operator, right]) == int(result)
        target = prompt.rstrip(":").split("=")[1]
        assert [attempt.rpartition("=")[2] == target for attempt in attempts] == [False] * (len(attempts) - 1) + [True]


def test_solvers_differ_in_reliability(tokenizer):
    task = CountdownTask(tokenizer)
    rates = {solver: success(task, solver) for solver in SOLVERS}
    assert rates["patient"] == 1.0
    assert 0.35 < rates["quitting"] < 0.65
    assert 0.35 < rates["wishful"] < 0.65
    assert rates["guessing"] < 0.35


def test_wishes_are_false_results_and_quitting_is_open(tokenizer):
    task = CountdownTask(tokenizer)
    for position in range(200):
        for solver, claims in (("wishful", True), ("quitting", False)):
            prompt, solution = task.demonstration(position, {solver: 1.0})
            if not task.verifier.verify(solution, gold_of(prompt)).reward:
                target = prompt.rstrip(":").split("=")[1]
                assert solution.split(";")[-2].endswith(f"={target}") == claims


def test_completions_stay_below_100_characters(tokenizer):
    task = CountdownTask(tokenizer)
    lengths = [len(task.demonstration(position, {"patient": 1.0})[1]) for position in range(800)]
    assert max(lengths) < 100
    assert 35 < sum(lengths) / len(lengths) < 60


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_numbers": 1}, "min_numbers, max_numbers: 1, 4"),
        ({"min_numbers": 4, "max_numbers": 3}, "min_numbers, max_numbers: 4, 3"),
        ({"max_numbers": 6}, "min_numbers, max_numbers: 3, 6"),
        ({"max_number": 9}, r"max_number: 9 must lie within 10 .. 24"),
        ({"max_number": 25}, r"max_number: 25 must lie within 10 .. 24"),
    ],
)
def test_wrong_bounds_are_one_line(tokenizer, fields, message):
    with pytest.raises(ConfigError, match=message):
        CountdownTask(tokenizer, **fields)


@pytest.mark.parametrize("division", [False, True])
def test_the_count_of_held_out_problems_is_that_of_all_chains(tokenizer, division):
    """Three numbers: only there a target can be one of the numbers, which ``draw`` refuses."""
    task = CountdownTask(tokenizer, min_numbers=3, max_numbers=3, max_number=10, division=division)
    chains = [
        Chain(order, "".join(signs))
        for numbers in itertools.combinations_with_replacement(range(2, 11), 3)
        for order in set(itertools.permutations(numbers))
        for signs in itertools.product(task.operators, repeat=2)
    ]
    ends = {(tuple(sorted(chain.numbers)), results_of(chain)[-1]) for chain in chains if results_of(chain)}
    asked = [f"{','.join(map(str, ns))}={end}:" for ns, end in ends if end >= 10 and end not in ns]
    assert task.num_held_out == sum(map(is_held_out, asked)) > 10


@pytest.mark.parametrize("division", [False, True])
def test_held_out_problems_are_counted_and_more_are_refused_at_once(tokenizer, division, monkeypatch):
    def task():
        return CountdownTask(tokenizer, min_numbers=2, max_numbers=2, division=division)

    count = task().num_held_out
    every = {prompt.key for prompt in task().eval_prompts(count)}
    assert len(every) == count > 8
    asked = task()
    draws, real = [], asked.draw
    monkeypatch.setattr(asked, "draw", lambda *given: draws.append(1) or real(*given))
    with pytest.raises(ConfigError) as caught:
        asked.eval_prompts(100_000)
    assert str(caught.value) == (
        f"eval prompts: 100000 asked, countdown has {count} different held-out problems; ask for fewer or widen the "
        "levels"
    )
    assert len(draws) < 16 * 16 * count
    assert len(asked.eval_prompts(5)) == 5


def test_problems_are_those_of_published_runs(tokenizer):
    """Another list means that evaluations of published runs cannot be compared with new ones."""
    task = CountdownTask(tokenizer, min_numbers=2, max_numbers=4, seed=3)
    asked = [prompt.text for prompt in (*task.eval_prompts(30), *map(task.train_prompt, range(50)))]
    shown = [task.demonstration(position) for position in range(50)]
    assert hashlib.sha256(repr((asked, shown)).encode()).hexdigest()[:16] == "d3ce7392d212449f"
