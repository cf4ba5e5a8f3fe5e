r"""Classes of equal answers: which, how they are numbered, and what a hostile answer may cost."""

import itertools
import time

import pytest

from arrol.types import Verdict
from arrol.verifiers.equivalence import AnswerClasses, answer_classes
from arrol.verifiers.extraction import MAX_CHARS
from arrol.verifiers.symbolic import SymbolicVerifier

RIGHT, WRONG, LATE = Verdict(1.0, "x"), Verdict(0.0, "x"), Verdict(0.0, "x", timed_out=True)


@pytest.fixture(scope="module")
def verifier():
    verifier = SymbolicVerifier(time_limit_s=3.0)
    yield verifier
    verifier.close()


class Scripted:
    """Algebra whose answers are given."""

    def __init__(self, same):
        self.same = same


def never(*words):
    raise AssertionError(words)


NEVER = Scripted(never)


def test_the_sample_needs_no_algebra():
    answers = ["0.5", r"\frac{1}{2}", None, "27.0", "1/2", "27", "1,000", "1000", "B", r"\text{(B)}", "C"]
    assert answer_classes(answers, NEVER) == AnswerClasses([0, 0, -1, 1, 0, 1, 2, 2, 3, 3, 4], 0, True)


@pytest.mark.parametrize("answer", [None, "", "  ", "$ $", "1+" * MAX_CHARS, "(" * 30 + "1" + ")" * 30])
def test_what_cannot_be_read_is_in_no_class(answer):
    assert answer_classes([answer, "3", answer]).ids_N == [-1, 0, -1]


def test_no_answers():
    assert answer_classes([]) == AnswerClasses([], 0, True)


def test_algebra_joins_what_spelling_cannot(verifier):
    answers = [r"\sqrt{18}", "x+1", r"3\sqrt{2}", "1+x", "2^{10}", "1024", "x=5", "5", r"\pi", "50\\%", "yes", "no"]
    classes = answer_classes(answers, verifier)
    assert classes.ids_N == [0, 1, 0, 1, 2, 2, 3, 3, 4, 5, 6, 7]
    assert classes.complete
    assert answer_classes(list(reversed(answers)), verifier).ids_N == [0, 1, 2, 3, 4, 4, 5, 5, 6, 7, 6, 7]


def test_classes_are_transitive_where_the_comparison_is_not():
    a, b, c = (rf"\max({name}, 1)" for name in "xyz")
    close = {frozenset(pair) for pair in ((a, b), (b, c))}  # a is b, b is c, a is not c

    def same(found, gold):
        return RIGHT if frozenset((found, gold)) in close else WRONG

    for answers in itertools.permutations((a, b, c)):
        ids = answer_classes(answers, Scripted(same)).ids_N
        # whatever the order: a partition, numbered in order of appearance
        assert ids[0] == 0
        assert len(set(ids)) in (1, 2)
    # the most frequent spelling stands for its class, so b gathers both
    assert answer_classes([a, b, c, b], Scripted(same)).ids_N == [0, 0, 0, 0]


def test_rounded_numbers_join_their_fraction(verifier):
    assert answer_classes(["1/3", "0.333333", "0.3333"], verifier).ids_N == [0, 0, 1]


def test_questions_are_bounded_and_the_rest_stays_apart():
    asked = []

    def same(found, gold):
        asked.append((found, gold))
        return WRONG

    answers = [rf"\max(x, {n})" for n in range(60)]
    classes = answer_classes(answers, Scripted(same), max_questions=160)
    assert (classes.ids_N, classes.num_questions, classes.complete) == (list(range(60)), 160, False)
    assert len(asked) == 160
    assert answer_classes(answers, Scripted(same), max_questions=10_000).num_questions == 60 * 59
    assert answer_classes(answers, Scripted(same), budget_s=0.0).num_questions == 0


def test_formulas_need_no_algebra():
    answers = [
        r"\frac{3\sqrt{2}}{4}",
        r"\sqrt{18}",
        "2^{10}",
        r"\pi+1",
        "3\\sqrt{2}",
        "1024",
        "7 cm",
        "7",
        "(1,2)",
        "x<2",
    ]
    classes = answer_classes(answers, NEVER)
    assert (classes.ids_N, classes.num_questions) == ([0, 1, 2, 3, 1, 2, 4, 4, 5, 6], 0)


def test_a_hostile_spelling_is_found_out_and_never_asked_about_again():
    asked = []

    def same(found, gold):
        asked.append((found, gold))
        return LATE if "sum" in found + gold else WRONG

    # the hostile one comes first and most often, so it stands for a class
    slow = r"\sum_{k=1}^{10^9} k^k"
    classes = answer_classes([slow, slow, "x+1", "y", "1+x", "z"], Scripted(same))
    assert classes.ids_N == [0, 0, 1, 2, 1, 3]
    assert not classes.complete
    assert sum(slow in pair for pair in asked) == 2


def test_a_hanging_comparison_ends_at_its_time_limit():
    verifier = SymbolicVerifier(time_limit_s=1.0)
    started = time.monotonic()
    classes = answer_classes([r"\sum_{k=1}^{10^9} k^k", "x+1", "1+x"], verifier)
    verifier.close()
    assert (classes.ids_N, classes.complete) == ([0, 1, 1], False)
    assert time.monotonic() - started < 60


def test_without_algebra_rules_decide_alone():
    assert answer_classes([r"\sqrt{18}", r"3\sqrt{2}", r"\max(3, 1)", "3"]).ids_N == [0, 0, 1, 2]
