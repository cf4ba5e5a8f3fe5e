"""Reward by length, by hand."""

from types import SimpleNamespace

import pytest

from arrol.reports.lengths import FEWEST_ROLLOUTS, reward_by_length, reward_length


def run_of(rows):
    """A run with rollouts of (tokens, reward, survival)."""
    rollouts = [SimpleNamespace(completion_tokens=tokens, reward=reward, survival=s) for tokens, reward, s in rows]
    return SimpleNamespace(rollouts=rollouts)


def test_classes_are_means_and_a_survivor_stands_for_the_stopped_ones():
    short = [(4, 1.0, 1.0)] * FEWEST_ROLLOUTS
    long = [(10, 0.0, 1.0)] * 4 + [(10, 1.0, 0.5)] * 4 + [(90, None, 0.5)] * 9
    tokens_B, reward_B = reward_by_length([run_of(short), run_of(long)])
    assert tokens_B.tolist() == [4, 10]
    assert reward_B.tolist() == pytest.approx([1.0, 8 / 12])


def test_too_few_rollouts_or_one_length_give_no_picture():
    assert reward_by_length([run_of([(4, 1.0, 1.0)] * 100)]) is None
    assert reward_by_length([run_of([(n, 1.0, 1.0) for n in range(2 * FEWEST_ROLLOUTS - 1)])]) is None
    assert reward_by_length([run_of([])]) is None
    assert reward_length({"a": [run_of([])]}) is None


def test_a_line_per_arm_with_units():
    rows = [(n, n / 40, 1.0) for n in range(40)]
    figure = reward_length({"a": [run_of(rows)], "b": [run_of(rows[:20])], "none": [run_of([])]})
    (axes,) = figure.axes
    assert len(axes.lines) == 2
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("completion length (tokens)", "mean reward")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
