"""Online strategies beside the majority that costs, or achieves, as much."""

import pytest

from arrol.evaluation.judging import judged
from arrol.evaluation.online import fixed_sizes, online_rows
from arrol.evaluation.problems import Sample, SampledProblem
from arrol.verifiers.integer import IntegerVerifier
from arrol.verifiers.pool import VerifierPool


def judge(problems):
    with VerifierPool(IntegerVerifier(), num_workers=1) as pool:
        return judged(problems, pool)


def sample(answer, tokens=10, confidence=1.0, quality=None):
    points = None if quality is None else ((4, quality),)
    return Sample(
        f"#### {answer}",
        num_tokens=tokens,
        score=0.0,
        quality=0.5,
        confidences=(confidence,) * tokens,
        probe_qualities=points,
    )


def problems_of(makes, count=16, num=6):
    return [SampledProblem(f"p{p}", "?", "4", tuple(makes(p, n) for n in range(count))) for p in range(num)]


def rows_by_name(rows):
    return {row["strategy"]: row for row in rows}


def test_who_agrees_at_once_needs_no_more_traces():
    found = judge(problems_of(lambda p, n: sample(4)))
    row = rows_by_name(online_rows(found, window=4))["consensus .95, 2+"]
    assert row["value"] == 1.0
    assert row["tokens_per_problem"] == 20.0
    assert row["traces_started"] == 2.0
    assert row["ahead"] == 0.0


def test_a_head_that_knows_saves_what_the_wrong_would_have_cost():
    """Half are wrong, and look it after four of a hundred tokens."""
    found = judge(problems_of(lambda p, n: sample(4 + n % 2, tokens=100, quality=0.9 if n % 2 == 0 else 0.1)))
    row = rows_by_name(online_rows(found, window=4))["head, quality < 0.2"]
    assert row["value"] == 1.0
    assert row["tokens_per_problem"] == 8 * 100 + 8 * 4
    assert row["traces_stopped"] == 8.0
    assert row["ahead_low"] > 0.2
    assert row["majority_tokens_at_equal_accuracy"] is None, "no number of votes gets there"


def test_deepconf_stops_what_falls_under_the_warm_up():
    found = judge(problems_of(lambda p, n: sample(4 + n % 2, tokens=50, confidence=2.0 if n % 2 == 0 else 1.0)))
    row = rows_by_name(online_rows(found, window=8))["DeepConf low"]
    assert row["value"] == pytest.approx(1.0, abs=0.1)
    assert row["tokens_per_problem"] < 16 * 50


def test_what_a_file_does_not_hold_is_not_compared():
    plain = judge(problems_of(lambda p, n: Sample("#### 4", num_tokens=5)))
    assert set(rows_by_name(online_rows(plain))) == {"consensus .8, 2+", "consensus .95, 2+"}
    assert online_rows(judge(problems_of(lambda p, n: Sample("#### 4")))) == [], "no token counts"
    assert online_rows(judge(problems_of(lambda p, n: sample(4), count=7))) == [], "too few"


def test_the_control_is_a_curve_up_to_all():
    assert fixed_sizes(8) == [1, 2, 4, 8]
    assert fixed_sizes(20) == [1, 2, 4, 8, 16, 20]
