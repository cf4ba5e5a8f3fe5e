"""An evaluation inside a host as a row of the learning curve."""

import math

import pytest

from arrol.integrations.evaluation import EvaluatedRollout, eval_row
from arrol.stats import wilson_interval


def test_one_sample_per_prompt_has_wilsons_interval():
    judged = [EvaluatedRollout(f"p{i}", total, float(total > 0.5), 4 + i) for i, total in enumerate([1.0, 0.25, 0.75])]
    row = eval_row(judged, 3, {"time/eval_s": 2.0})
    assert (row.step, row.accuracy, row.num_prompts, row.samples_per_prompt) == (3, pytest.approx(2 / 3), 3, 1)
    assert (row.low, row.high) == tuple(wilson_interval(2, 3))
    assert row.metrics == {
        "eval/reward/mean": pytest.approx(2 / 3), "eval/completion_tokens/mean": 5.0, "time/eval_s": 2.0,
    }  # fmt: skip


def test_each_prompt_counts_once_however_many_samples_it_has():
    judged = [
        EvaluatedRollout("a", 1.0, 1.0, 1), EvaluatedRollout("b", math.nan, 0.0, 1), EvaluatedRollout("a", 0.0, 0.0, 1),
        EvaluatedRollout("a", 0.0, 0.0, 1), EvaluatedRollout("a", 1.0, 1.0, 1), EvaluatedRollout("b", 0.0, 0.0, 1),
    ]  # fmt: skip
    row = eval_row(judged, 0)
    assert (row.accuracy, row.num_prompts, row.samples_per_prompt) == (0.25, 2, 2)
    assert 0 <= row.low <= 0.25 <= row.high <= 0.5
    assert row.metrics["eval/reward/mean"] == pytest.approx(0.4)
