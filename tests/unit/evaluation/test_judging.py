"""What a file lacks is found, what it brings is kept, and a vote's classes are right or wrong as a whole."""

import numpy as np
import pytest

from arrol.errors import DataError
from arrol.evaluation.judging import ballots_of, disagreements, judged, unjudged, verifier_for
from arrol.evaluation.problems import Sample, SampledProblem
from arrol.evaluation.samples import read_samples, write_samples
from arrol.verifiers.equivalence import AnswerClasses
from arrol.verifiers.integer import IntegerVerifier
from arrol.verifiers.pool import VerifierPool
from arrol.verifiers.symbolic import SymbolicVerifier


def problem(*samples, gold="4", key="p"):
    return SampledProblem(key, "2 + 2?", gold, tuple(samples))


def judge(*problems):
    with VerifierPool(verifier_for(problems), num_workers=1) as pool:
        return judged(problems, pool)


def test_the_verifier_does_not_depend_on_the_gold_answers():
    for gold in ("4", "1,000", "1/2", None):
        assert isinstance(verifier_for([problem(Sample("a", answer="4", reward=1.0), gold=gold)]), SymbolicVerifier)
    assert isinstance(verifier_for([problem(Sample("a"))], "integer"), IntegerVerifier)


def test_verdicts_and_answers_are_found_where_they_are_missing():
    (one,) = judge(problem(Sample("so #### 4"), Sample("so #### 5"), Sample("no idea"), Sample("again #### 4")))
    assert one.right_N.tolist() == [True, False, False, True]
    assert one.class_N.tolist() == [0, 1, -1, 0]
    assert [sample.answer for sample in one.samples] == ["4", "5", None, "4"]


def test_verdicts_and_groups_are_counted_apart():
    seen = {"verdicts": [], "groups": []}
    problems = [problem(Sample("#### 4"), Sample("#### 5"), key=str(n)) for n in range(3)]
    with VerifierPool(verifier_for(problems), num_workers=1) as pool:
        judged(
            problems,
            pool,
            lambda *told: seen["verdicts"].append(told),
            lambda *told: seen["groups"].append(told),
        )
    assert seen["verdicts"][-1] == (6, 6)
    assert seen["groups"][-1] == (3, 3)


def test_what_a_file_says_is_kept():
    (one,) = judge(problem(Sample("#### 4", answer="four", reward=0.0), Sample("#### 5", reward=1.0)))
    assert [sample.answer for sample in one.samples] == ["four", "5"]
    assert one.right_N.tolist() == [False, True]


def test_every_verdict_says_who_judged():
    samples = [Sample("so #### 4"), Sample("#### 4", reward=0.0), Sample("x", answer="4", reward=1.0)]
    (one,) = judge(problem(*samples))
    assert [sample.verifier == "file" for sample in one.samples] == [False, True, True]
    assert all(sample.verifier for sample in one.samples)
    assert [sample.answer_class for sample in one.samples] == [0, 0, 0]


def test_what_was_judged_is_neither_judged_nor_grouped_again(tmp_path):
    problems = [
        problem(Sample("#### 1/2"), Sample("#### 0.5"), Sample(""), Sample("#### 3"), gold="1/2", key="a"),
        problem(Sample(""), gold="1/3", key="b"),
    ]
    found = judge(*problems)
    write_samples(tmp_path / "verdicts.jsonl", [one.problem for one in found])
    again = judged(read_samples(tmp_path / "verdicts.jsonl"), NoPool())
    for one, two in zip(found, again, strict=True):
        assert one.problem == two.problem
        assert one.class_N.tolist() == two.class_N.tolist()
        assert one.right_N.tolist() == two.right_N.tolist()


class NoPool:
    """Refuses to judge; problems without a readable answer need no comparison."""

    verifier = IntegerVerifier(("####",))

    def verify_all(self, pairs, progress=None):
        assert pairs == []
        return []

    def classes_of_all(self, problems, progress=None):
        assert all(answer is None for answers in problems for answer in answers)
        return [AnswerClasses([-1] * len(answers), 0, True) for answers in problems]


def test_verdicts_can_be_forgotten():
    old = Sample("#### 4", "five", 0.0, score=1.5, mark="box", verifier="file", reason="no", answer_class=3)
    (one,) = unjudged([problem(old)])
    assert one.samples == (Sample("#### 4", score=1.5),)


def test_a_verifier_and_marks_can_be_chosen():
    half = problem(Sample("x"), gold="1/2", key="h")
    with pytest.raises(DataError, match="--verifier = 'integer': the gold answer '1/2' of problem 'h' is not an integ"):
        verifier_for([problem(Sample("x")), half], "integer")
    assert isinstance(verifier_for([problem(Sample("x"))], "symbolic"), SymbolicVerifier)
    for kind, gold in (("integer", "4"), ("symbolic", "1/2")):
        verifier = verifier_for([problem(Sample("x"), gold=gold)], None, ["Ergebnis:"])
        assert verifier.marks == ("Ergebnis:",), kind


def test_equal_answers_are_one_candidate():
    (one,) = judge(problem(Sample("\\boxed{0.5}"), Sample("\\boxed{\\frac{1}{2}}"), Sample("\\boxed{2}"), gold="1/2"))
    assert one.class_N.tolist() == [0, 0, 1]
    assert one.right_N.tolist() == [True, True, False]


def test_a_class_has_the_verdict_of_its_first_member_in_votes():
    samples = [Sample("", answer="4", reward=1.0), Sample("", answer="4", reward=0.0), Sample("", reward=1.0)]
    found = judge(problem(*samples))
    assert found[0].right_N.tolist() == [True, False, True]
    assert found[0].votes_right_N.tolist() == [True, True, False]
    assert disagreements(found) == 2


def test_without_gold_answers_and_rewards_nothing_can_be_judged():
    with pytest.raises(DataError, match="problem 'x' has neither a gold answer nor rewards"):
        judge(problem(Sample("4"), gold=None, key="x"))


def test_ballots_bring_only_what_every_sample_has():
    full = Sample("#### 4", score=1.0, quality=0.9, confidences=(1.0, 3.0), num_tokens=2)
    (one,) = judge(problem(full, full))
    ballots = ballots_of(one, measure="average")
    assert ballots.score_N.tolist() == [1.0, 1.0]
    assert ballots.confidence_N.tolist() == [2.0, 2.0]
    (other,) = judge(problem(full, Sample("#### 4")))
    ballots = ballots_of(other)
    assert (ballots.score_N, ballots.quality_N, ballots.confidence_N) == (None, None, None)
    assert np.isnan(other.tokens_N).tolist() == [False, True]


def test_log_probabilities_stand_in_for_confidences():
    (one,) = judge(problem(Sample("#### 4", logprobs=(np.log(0.5), np.log(0.25)))))
    np.testing.assert_allclose(ballots_of(one, measure="average").confidence_N, [0.375])
