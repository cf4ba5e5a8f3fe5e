"""Votes and metrics beside their derivation by hand."""

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from arrol.evaluation.majority import maj_at_k
from arrol.evaluation.metrics import best_of_k, pass_at_k
from arrol.test_time.voting import RULES, Ballots, vote

GOLDEN = json.loads((Path(__file__).parent / "votes.json").read_text())


def floats(values):
    return [math.nan if value is None else float(Fraction(value)) for value in values]


def named(case):
    return case.get("name", case["rule"])


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=named)
def test_weights_and_winner(case):
    ballots = Ballots(*(np.array(GOLDEN[name]) for name in ("answer", "score", "quality", "confidence")))
    if "weight" in case:
        expected = floats(case["weight"])
    else:
        expected = [max(0.0, math.log(odds)) for odds in floats(case["log_weight"])]
    np.testing.assert_allclose(RULES[case["rule"]](ballots), expected, atol=1e-12)
    result = vote(ballots, case["rule"])
    assert (result.answer, result.is_tied) == (case["winner"], case["tied"])
    assert result.share == pytest.approx(float(Fraction(case["share"])))


@pytest.mark.parametrize("case", GOLDEN["ties"], ids=named)
def test_ties(case):
    result = vote(Ballots(np.array(case["answer"]), np.array(case["score"])), case["rule"])
    assert (result.answer, result.is_tied) == (case["winner"], case["tied"])


def test_pass_at_k():
    case = GOLDEN["pass_at_k"]
    found = [pass_at_k([case["right"]], [case["samples"]], k)[0] for k in range(1, 6)]
    assert found == pytest.approx(floats(case["values"]))


def test_best_of_k():
    case = GOLDEN["best_of_k"]
    assert best_of_k([case["score"]], [case["right"]], range(1, 5))[0] == pytest.approx(floats(case["values"]))


def test_maj_at_k():
    case = GOLDEN["maj_at_k"]
    votes = maj_at_k([Ballots(np.array(case["answer"]))], [np.array(case["right"])], range(1, 6))
    assert votes.right_PK[0] == pytest.approx(floats(case["values"]))
