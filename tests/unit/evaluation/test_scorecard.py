"""Rows of a small table, by hand."""

import math

import numpy as np
import pytest

from arrol.errors import DataError
from arrol.evaluation.metrics import paired_difference, summary
from arrol.evaluation.scorecard import PromptSamples, columns, rows
from arrol.test_time.voting import Ballots, rank, top_percent


def prompt(answers, scores, right, tokens, level):
    return PromptSamples(
        Ballots(np.array(answers), np.array(scores, float)), np.array(right, bool), np.array(tokens), level
    )


SAMPLES = [
    prompt([0, 0, 1], [1, 0, 2], [1, 1, 0], [4, 6, 8], 1),
    prompt([0, 1, -1], [1, 0, 2], [0, 0, 0], [1, 1, 1], 2),
    prompt([0, 2, 2], [2, 0, 1], [1, 0, 0], [2, 2, 2], 2),
]
"""Answers A A B with A right; A B and none, nothing right; A C C with A right."""


def column(found, metric, k, rule=""):
    (one,) = [c for c in found if (c.metric, c.k, c.rule) == (metric, k, rule)]
    return one


def test_values_prompt_by_prompt():
    found = columns(SAMPLES, [1, 2, 3], rules=["majority", "rank"])
    np.testing.assert_allclose(column(found, "avg", 1).value_P, [2 / 3, 0, 1 / 3])
    np.testing.assert_allclose(column(found, "pass", 2).value_P, [1, 0, 2 / 3])
    # Pairs of prompt 0: AA right, AB tied, AB tied; of prompt 2: AC tied twice, CC wrong.
    np.testing.assert_allclose(column(found, "maj", 2, "majority").value_P, [2 / 3, 0, 1 / 3])
    np.testing.assert_allclose(column(found, "maj", 2, "majority").tied_P, [2 / 3, 1 / 3, 2 / 3])
    np.testing.assert_allclose(column(found, "gap", 2, "majority").value_P, [1 / 3, 0, 1 / 3])
    # Of two, rank hears the better alone: AA right; B over A twice. Prompt 2: A over C twice, CC.
    np.testing.assert_allclose(column(found, "maj", 2, "rank").value_P, [1 / 3, 0, 2 / 3])
    np.testing.assert_allclose(column(found, "best", 2).value_P, [1 / 3, 0, 2 / 3])
    np.testing.assert_allclose(column(found, "maj", 3, "majority").value_P, [1, 0, 0])
    np.testing.assert_allclose(column(found, "maj", 3, "majority").tokens_P, [18, 3, 6])


def test_an_unreadable_sample_ranks_last():
    # The highest score of prompt 1 has no answer.
    samples = [PromptSamples(Ballots(np.array([0, -1]), np.array([0.0, 9.0])), np.array([True, False]))]
    assert column(columns(samples, [2]), "best", 2).value_P == [1.0]


def test_rows_by_level():
    found = rows(columns(SAMPLES, [3]), [sample.level for sample in SAMPLES])
    one, *levels = [row for row in found if row["metric"] == "maj"]
    expected = summary([1.0, 0.0, 0.0])
    assert one == {
        "metric": "maj", "k": 3, "rule": "majority", "level": None, "value": pytest.approx(1 / 3), "low": expected.low,
        "high": expected.high, "num_prompts": 3, "tied_frac": pytest.approx(1 / 3), "tokens": pytest.approx(9.0),
    }  # fmt: skip
    assert [(row["level"], row["value"], row["num_prompts"]) for row in levels] == [(1, 1.0, 1), (2, 0.0, 2)]
    assert {row["level"] for row in rows(columns(SAMPLES, [1]))} == {None}


def test_any_rule_under_any_name_and_pairs_of_columns():
    found = columns(SAMPLES, [3], rules={"plain": "majority", "half": top_percent(rank, 50, by="score")})
    first, second = column(found, "maj", 3, "plain"), column(found, "maj", 3, "half")
    assert paired_difference(first.value_P, second.value_P).num_prompts == 3


def test_what_was_not_measured_is_not_there():
    bare = [PromptSamples(Ballots(np.array([0, 1])), np.array([True, False]))]
    found = columns(bare, [2])
    assert {c.metric for c in found} == {"avg", "pass", "maj", "gap"}
    assert math.isnan(rows(found)[0]["tokens"])
    assert math.isnan(rows(found)[0]["tied_frac"])


def test_too_few_samples_and_no_prompts_are_refused():
    with pytest.raises(DataError, match="k = 4: prompt 0 has 3 samples"):
        columns(SAMPLES, [1, 4])
    with pytest.raises(DataError, match="samples_P is empty"):
        columns([], [1])
