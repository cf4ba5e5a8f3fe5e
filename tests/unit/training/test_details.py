"""Completions and histograms of a step."""

import numpy as np
from integrations.groups import group_of

from arrol.algorithms.advantages import GroupSignal
from arrol.training.details import MAX_CHARACTERS, MAX_ROWS, step_details


def signal_of(advantages):
    count = len(advantages)
    return GroupSignal(np.array(advantages, float), np.ones(count), 1.0, float(count))


def details_of(groups, text="text"):
    signals = [signal_of([0.5] * len(group.rollouts)) for group in groups]
    return step_details(7, groups, signals, lambda rollout: text)


def test_a_row_says_what_became_of_a_rollout():
    group = group_of([1, 0, 1], [0.5, 0.25, 1.0], [1.0, 0.0, None], lengths=[3, 2, 4], quality=0.7)
    details = details_of([group])
    assert list(details.completions[0]) == [
        "step", "prompt", "completion", "reward", "advantage", "ended", "tokens", "quality", "survival",
    ]  # fmt: skip
    kept, stopped, unjudged = (tuple(row.values()) for row in details.completions)
    assert kept == (7, "", "text", 1.0, 0.5, "stop", 3, 0.7, 0.5)
    assert stopped == (7, "", "text", None, None, "stopped by pruning", 2, 0.7, 0.25)
    assert unjudged[3:] == (None, 0.5, "stop", 4, None, 1.0)


def test_histograms_hold_what_is_known():
    group = group_of([1, 0, 1], [0.5, 0.25, 1.0], [1.0, 0.0, np.nan], lengths=[3, 2, 4], quality=0.7)
    values = details_of([group]).values
    assert {name: column.tolist() for name, column in values.items()} == {
        "reward": [1.0],
        "completion_tokens": [3, 2, 4],
        "quality": [0.7, 0.7],
        "survival": [0.5, 0.25],
    }


def test_a_run_without_probes_has_no_histogram_of_quality():
    assert set(details_of([group_of([1], [1.0], [1.0])]).values) == {"reward", "completion_tokens"}


def test_a_table_is_bounded_and_has_whole_groups():
    groups = [group_of([1] * 24, [1.0] * 24, [1.0] * 24, number=number) for number in range(9)]
    details = details_of(groups, text="x" * 9999)
    assert len(details.completions) == 48 < MAX_ROWS
    assert {len(str(row["completion"])) for row in details.completions} == {MAX_CHARACTERS}
    assert len(details.values["reward"]) == 9 * 24
    large = [group_of([1] * 100, [1.0] * 100, [1.0] * 100)]
    assert len(details_of(large).completions) == MAX_ROWS
