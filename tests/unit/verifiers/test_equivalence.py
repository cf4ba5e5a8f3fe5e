r"""Classes of equal answers: which, how they are numbered, and what a hostile answer may cost."""

import itertools
import time

import pytest

from arrol.types import Verdict
from arrol.verifiers.equivalence import AnswerClasses, answer_classes
from arrol.verifiers.symbolic import MAX_CHARS, SymbolicVerifier, Value

RIGHT, WRONG, LATE = Verdict(1.0, "x"), Verdict(0.0, "x"), Verdict(0.0, "x", timed_out=True)


@pytest.fixture(scope="module")
def verifier():
    verifier = SymbolicVerifier(time_limit_s=3.0)
    yield verifier
    verifier.close()


class Scripted:
    """Algebra whose answers are given."""

    def __init__(self, same, value=lambda answer: Value(None)):
        self.same = same
        self.value = value


def never(*words):
    raise AssertionError(words)


NEVER = Scripted(never, never)


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
    close = {frozenset(pair) for pair in (("a", "b"), ("b", "c"))}  # a is b, b is c, a is not c

    def same(found, gold):
        return RIGHT if frozenset((found, gold)) in close else WRONG

    for answers in itertools.permutations("abc"):
        ids = answer_classes(answers, Scripted(same)).ids_N
        # whatever the order: a partition, numbered in order of appearance
        assert ids[0] == 0
        assert len(set(ids)) in (1, 2)
    # the most frequent spelling stands for its class, so b gathers both
    assert answer_classes(["a", "b", "c", "b"], Scripted(same)).ids_N == [0, 0, 0, 0]


def test_rounded_numbers_join_their_fraction(verifier):
    assert answer_classes(["1/3", "0.333333", "0.3333"], verifier).ids_N == [0, 0, 1]


def test_questions_are_bounded_and_the_rest_stays_apart():
    asked = []

    def same(found, gold):
        asked.append((found, gold))
        return WRONG

    answers = [f"x^{{{n}}}" for n in range(60)]
    classes = answer_classes(answers, Scripted(same), max_questions=160)
    assert (classes.ids_N, classes.num_questions, classes.complete) == (list(range(60)), 160, False)
    assert 100 <= len(asked) < 160  # the rest asked for values
    assert answer_classes(answers, Scripted(same), max_questions=10_000).num_questions == 60 * 59 // 2 + 60
    assert answer_classes(answers, Scripted(same), budget_s=0.0).num_questions == 0


def test_numbers_that_are_apart_are_not_compared():
    values = {"sqrt2": 1.41421356, "pi": 3.14159265, "roottwo": 1.4142136, "x": None, "big": 1e12, "bigger": 1e12 + 1}
    asked = []

    def same(found, gold):
        asked.append({found, gold})
        return RIGHT if {found, gold} == {"sqrt2", "roottwo"} else WRONG

    answers = ["sqrt2", "pi", "3", "roottwo", "x", "big", "bigger"]
    classes = answer_classes(answers, Scripted(same, lambda answer: Value(values[answer])))
    assert classes.ids_N == [0, 1, 2, 0, 3, 4, 5]
    assert {"pi", "3"} not in asked
    assert all("x" in pair or pair in ({"sqrt2", "roottwo"}, {"big", "bigger"}) for pair in asked)


def test_what_is_apart_is_not_the_same_to_algebra_either(verifier):
    answers = [
        r"\frac{3\sqrt{2}}{4}",
        r"\sqrt{18}",
        "2^{10}",
        r"\pi+1",
        r"\sqrt{-4}",
        r"\log_{2} 9",
        "1024.5",
        "5^\\circ",
        "7",
    ]
    values = [verifier.value(answer).number for answer in answers]
    assert all(value is not None for value in values)
    for one, other in itertools.combinations(range(len(answers)), 2):
        assert abs(values[one] - values[other]) > 1e-4
        assert verifier.same(answers[one], answers[other]).reward == 0.0


def test_a_hostile_spelling_is_found_out_and_never_asked_about_again():
    asked = []

    def same(found, gold):
        asked.append((found, gold))
        if "slow" in found or "slow" in gold:
            return LATE
        return RIGHT if {found, gold} == {"x+1", "1+x"} else WRONG

    # the hostile one comes first and most often, so it stands for a class
    classes = answer_classes(["slow", "slow", "x+1", "y", "1+x", "z"], Scripted(same))
    assert classes.ids_N == [0, 0, 1, 2, 1, 3]
    assert not classes.complete
    assert sum("slow" in pair for pair in asked) == 2


def test_a_spelling_whose_value_kills_the_worker_is_never_compared():
    asked = []

    def same(found, gold):
        asked.append((found, gold))
        return WRONG

    algebra = Scripted(same, lambda answer: Value(None, has_failed=answer == "slow"))
    classes = answer_classes(["slow", "x", "y"], algebra)
    assert (classes.ids_N, classes.complete) == ([0, 1, 2], False)
    assert all("slow" not in pair for pair in asked)


def test_a_hanging_comparison_ends_at_its_time_limit():
    verifier = SymbolicVerifier(time_limit_s=1.0)
    started = time.monotonic()
    classes = answer_classes(["9^{9^{9^{9}}}", "x+1", "1+x"], verifier)
    verifier.close()
    assert (classes.ids_N, classes.complete) == ([0, 1, 1], False)
    assert time.monotonic() - started < 60


def test_without_algebra_only_spellings_count():
    assert answer_classes([r"\sqrt{18}", r"3\sqrt{2}", "x + 1", "x+1"]).ids_N == [0, 1, 2, 2]
