"""Rewards of unpruned rollouts as a row of the learning curve."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from arrol.integrations.evaluation import EvaluatedRollout, eval_row
from arrol.integrations.trl.batch import RowTag
from arrol.integrations.trl.evaluation import JudgedRollouts
from arrol.integrations.trl.rewards import TAG_COLUMN, prune_rewards

from ..groups import group_of


def graded(completions, **columns):
    return [None if text == "none" else float(text) for text in completions]


def trainer_of(*functions):
    return SimpleNamespace(
        reward_func_names=[function.__name__ for function in functions],
        reward_funcs=list(functions),
        reward_weights=torch.full((len(functions),), 2.0),
    )


def groups_of(count, first=0):
    """One rollout each, as TRL's evaluation asks; two of a prompt side by side."""
    groups = [group_of([1], [1.0], [None], number=first + place) for place in range(count)]
    for place, group in enumerate(groups):
        object.__setattr__(group.prompt, "key", f"p{(first + place) // 2}")
    return groups


def test_an_evaluation_is_gathered_batch_by_batch():
    wrapped = prune_rewards(graded)
    trainer, evaluation = trainer_of(wrapped), JudgedRollouts(None, 0.5)
    for first, values in ((0, ["1", "0.25"]), (2, ["none", "0.75"])):
        tags = evaluation.tags(groups_of(2, first), trainer)
        assert wrapped(completions=values, **{TAG_COLUMN: tags}) == graded(values)
    judged = evaluation.take(trainer)
    assert [(one.prompt, one.success) for one in judged] == [("p0", 1.0), ("p0", 0.0), ("p1", 0.0), ("p1", 1.0)]
    np.testing.assert_array_equal([one.total for one in judged], [2.0, 0.5, np.nan, 1.5])
    assert evaluation.take(trainer) == []


def test_what_a_function_returns_there_is_not_checked():
    def odd(completions, **columns):
        return [float("inf")] * len(completions)

    wrapped = prune_rewards(odd)
    tags = JudgedRollouts(None, 0.5).tags(groups_of(1), trainer_of(wrapped))
    assert wrapped(completions=["a"], **{TAG_COLUMN: tags}) == [float("inf")]


def test_without_its_reward_functions_a_batch_is_left_out():
    trainer, evaluation = trainer_of(graded), JudgedRollouts(None, 0.5)
    evaluation.tags(groups_of(2), trainer)
    assert evaluation.take(trainer) == []


def test_a_tag_of_evaluation_survives():
    (tag,) = JudgedRollouts(None, 0.5).tags(groups_of(1), trainer_of(graded))
    assert isinstance(tag, RowTag)
    assert (tag.survived, tag.batch.is_evaluation) == (True, True)


def judged(prompt, success, total=0.0, tokens=4):
    return EvaluatedRollout(prompt, total, success, tokens)


def test_the_interval_is_over_prompts():
    row = eval_row([judged("a", 1.0, 1.5), judged("a", 1.0, 0.5, 8), judged("b", 0.0), judged("b", 0.0)], 3)
    assert (row.step, row.accuracy, row.num_prompts, row.samples_per_prompt) == (3, 0.5, 2, 2)
    assert (row.low, row.high) == (0.0, 1.0)  # two prompts, not four rollouts
    assert row.metrics == {"eval/reward/mean": 0.5, "eval/completion_tokens/mean": 5.0}
    alone = eval_row([judged(str(place), float(place < 30)) for place in range(100)], 0)
    assert (alone.low, alone.high) == pytest.approx((0.2189, 0.3958), abs=5e-4)


def test_a_repeated_prompt_counts_once():
    row = eval_row([judged("a", 1.0), judged("a", 0.0), judged("a", 0.0), judged("b", 1.0), judged("b", 1.0)], 1)
    assert (row.accuracy, row.num_prompts, row.samples_per_prompt) == (pytest.approx(2 / 3), 2, 2)


def test_a_total_that_is_unknown_everywhere_stays_unknown():
    row = eval_row([judged("a", 0.0, float("nan"))], 1)
    assert np.isnan(row.metrics["eval/reward/mean"])
