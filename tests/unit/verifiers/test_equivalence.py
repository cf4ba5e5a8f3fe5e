r"""Classes of equal answers: which, how they are numbered, and what a hostile answer may cost."""

import itertools
import time

import pytest

from arrol.types import Verdict
from arrol.verifiers.equivalence import AnswerClasses, answer_classes
from arrol.verifiers.symbolic import MAX_CHARS, SymbolicVerifier

RIGHT, WRONG, LATE = Verdict(1.0, "x"), Verdict(0.0, "x"), Verdict(0.0, "x", timed_out=True)


@pytest.fixture(scope="module")
def verifier():
    verifier = SymbolicVerifier(time_limit_s=3.0)
    yield verifier
    verifier.close()


def never(found, gold):
    raise AssertionError((found, gold))


def test_the_sample_needs_no_algebra():
    answers = ["0.5", r"\frac{1}{2}", None, "27.0", "1/2", "27", "1,000", "1000", "B", r"\text{(B)}", "C"]
    assert answer_classes(answers, never) == AnswerClasses([0, 0, -1, 1, 0, 1, 2, 2, 3, 3, 4], 0, True)


@pytest.mark.parametrize("answer", [None, "", "  ", "$ $", "1+" * MAX_CHARS, "(" * 30 + "1" + ")" * 30])
def test_what_cannot_be_read_is_in_no_class(answer):
    assert answer_classes([answer, "3", answer]).ids_N == [-1, 0, -1]


def test_no_answers():
    assert answer_classes([]) == AnswerClasses([], 0, True)


def test_algebra_joins_what_spelling_cannot(verifier):
    answers = [r"\sqrt{18}", "x+1", r"3\sqrt{2}", "1+x", "2^{10}", "1024", "x=5", "5", r"\pi", "50\\%", "yes", "no"]
    classes = answer_classes(answers, verifier.same)
    assert classes.ids_N == [0, 1, 0, 1, 2, 2, 3, 3, 4, 5, 6, 7]
    assert classes.complete
    assert answer_classes(list(reversed(answers)), verifier.same).ids_N == [0, 1, 2, 3, 4, 4, 5, 5, 6, 7, 6, 7]


def test_classes_are_transitive_where_the_comparison_is_not():
    close = {frozenset(pair) for pair in (("a", "b"), ("b", "c"))}  # a is b, b is c, a is not c

    def same(found, gold):
        return RIGHT if frozenset((found, gold)) in close else WRONG

    for answers in itertools.permutations("abc"):
        ids = answer_classes(answers, same).ids_N
        # whatever the order: a partition, numbered in order of appearance
        assert ids[0] == 0
        assert len(set(ids)) in (1, 2)
    # the most frequent spelling stands for its class, so b gathers both
    assert answer_classes(["a", "b", "c", "b"], same).ids_N == [0, 0, 0, 0]


def test_rounded_numbers_join_their_fraction(verifier):
    assert answer_classes(["1/3", "0.333333", "0.3333"], verifier.same).ids_N == [0, 0, 1]


def test_comparisons_are_bounded_and_the_rest_stays_apart():
    asked = []

    def same(found, gold):
        asked.append((found, gold))
        return WRONG

    answers = [f"x^{{{n}}}" for n in range(60)]
    classes = answer_classes(answers, same, max_comparisons=100)
    assert (classes.ids_N, classes.num_comparisons, classes.complete) == (list(range(60)), 100, False)
    assert len(asked) == 100
    assert answer_classes(answers, same, max_comparisons=10_000).num_comparisons == 60 * 59 // 2
    assert answer_classes(answers, same, budget_s=0.0).num_comparisons == 0


def test_a_hostile_spelling_is_found_out_and_never_asked_about_again():
    asked = []

    def same(found, gold):
        asked.append((found, gold))
        if "slow" in found or "slow" in gold:
            return LATE
        return RIGHT if {found, gold} == {"x+1", "1+x"} else WRONG

    # the hostile one comes first and most often, so it stands for a class
    classes = answer_classes(["slow", "slow", "x+1", "y", "1+x", "z"], same)
    assert classes.ids_N == [0, 0, 1, 2, 1, 3]
    assert not classes.complete
    assert sum("slow" in pair for pair in itertools.chain(asked)) == 2


def test_a_hanging_comparison_ends_at_its_time_limit():
    verifier = SymbolicVerifier(time_limit_s=0.5)
    verifier.same("x+1", "1+x")
    started = time.monotonic()
    classes = answer_classes(["2^{1000000000}", "x+1", "1+x", "3^{1000000000}", "y"], verifier.same)
    verifier.close()
    assert classes.ids_N[1] == classes.ids_N[2]
    assert len(set(classes.ids_N)) == 4
    assert time.monotonic() - started < 60


def test_without_algebra_only_spellings_count():
    assert answer_classes([r"\sqrt{18}", r"3\sqrt{2}", "x + 1", "x+1"]).ids_N == [0, 1, 2, 2]
