"""Warnings tell of gold answers and completions that nothing can be right with, and of nothing else."""

import pytest

from arrol.evaluation.cautions import cautions_of, is_solution, is_unreadable
from arrol.evaluation.judging import judged, verifier_for
from arrol.evaluation.problems import Sample, SampledProblem
from arrol.verifiers.pool import VerifierPool

SOLUTION = "She has 3 apples and then she buys 4 more at the market, so she has 3 + 4 = 7 apples."


@pytest.mark.parametrize(
    "gold",
    [
        "12",
        r"\frac{1}{2}",
        r"x = 2 \text{ or } x = 3",
        "Tuesday",
        r"\text{Ben and Ann}",
        "10 square meters",
        r"\left( -\infty, \frac{\pi}{2} \right) \cup \left[ 3, \infty \right)",
        '{"all_of": ["1", "2"]}',
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
        r"y = \arcsin(x) + \log_2 \sqrt{3} + \cos x \sin y \tan z \sinh w \exp v \ln u",
    ],
)
def test_answers_are_neither_solutions_nor_unreadable(gold):
    assert not is_solution(gold)
    assert not is_unreadable(gold)


def test_solutions_and_sentences():
    assert is_solution(SOLUTION)
    assert is_solution("3 + 4 = 7\nso 7")
    assert is_unreadable("the function is always odd")
    assert is_unreadable(r"\frac{1}{2")
    assert is_unreadable("1" * 501)


def found(*rows):
    problems = [SampledProblem(f"p{n}", "?", gold, tuple(samples)) for n, (gold, samples) in enumerate(rows)]
    with VerifierPool(verifier_for(problems, "symbolic"), num_workers=1) as pool:
        return judged(problems, pool)


def test_warnings_have_counts_and_the_first_key():
    right = Sample(r"\boxed{7}")
    rows = [("7", [right]), (SOLUTION, [right]), ("the function is always odd", [right]), (SOLUTION, [right])]
    one, two = cautions_of(found(*rows))
    assert one.startswith("2 of 4 gold answers look like worked solutions without ####")
    assert "as of problem 'p1'; mark the answer in them, or name its column: --column answer=NAME" in one
    assert two.startswith("1 of 4 gold answers cannot be read as mathematics, as 'the function is always odd' of probl")


def test_a_gold_answer_is_not_looked_at_where_the_file_has_the_verdicts():
    assert cautions_of(found((SOLUTION, [Sample("x", answer="7", reward=1.0)]))) == []


def test_mostly_unreadable_completions():
    empty, full = Sample(""), Sample(r"\boxed{7}")
    (one,) = cautions_of(found(("7", [empty, empty, full])))
    assert one.startswith("2 of 3 completions hold no readable answer; eval --out FILE writes why")
    assert cautions_of(found(("7", [empty, full]))) == []
