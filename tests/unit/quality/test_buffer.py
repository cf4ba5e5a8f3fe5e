"""What is remembered, what is forgotten, and that a restart changes neither."""

import numpy as np
import pytest

from arrol.quality.buffer import ProbeBuffer, PromptHistory


def push(buffer, labels, version=0):
    labels = np.array(labels, float)
    features = np.stack([labels, 10 * labels], 1) if len(labels) else np.zeros((0, 2))
    buffer.push(features, labels, 1 + labels, labels / 10, version)


def test_the_oldest_are_forgotten_first():
    buffer = ProbeBuffer(4, 2)
    assert len(buffer) == 0
    push(buffer, [1, 2, 3], version=1)
    push(buffer, [4, 5], version=2)
    push(buffer, [])
    assert buffer.label_N.tolist() == [2, 3, 4, 5]
    assert buffer.version_N.tolist() == [1, 1, 2, 2]
    assert buffer.weight_N.tolist() == [3, 4, 5, 6]
    assert buffer.features_NF.tolist() == [[2, 20], [3, 30], [4, 40], [5, 50]]
    assert buffer.features_NF.dtype == np.float32
    push(buffer, [6, 7, 8, 9, 10])
    assert buffer.score_N.tolist() == [0.7, 0.8, 0.9, 1.0]


def test_columns_of_unequal_length_are_our_own_mistake():
    with pytest.raises(AssertionError):
        ProbeBuffer(4, 2).push(np.zeros((2, 2)), np.zeros(2), np.zeros(1), np.zeros(2), 0)


@pytest.mark.parametrize("count", [0, 3])
def test_a_restart_continues_the_same_buffer(count):
    buffer, again = ProbeBuffer(4, 2), ProbeBuffer(4, 2)
    push(buffer, range(count))
    state = {key: np.array(value) for key, value in buffer.save().items()}
    push(again, [99, 98])
    again.load(state)
    for each in (buffer, again):
        push(each, [7, 8], version=5)
    for key, value in buffer.save().items():
        np.testing.assert_array_equal(value, again.save()[key])
        assert value.dtype == again.save()[key].dtype
    assert state["label"].tolist() == list(range(count))  # pushing afterwards leaves what was saved alone


def test_history_discounts_earlier_visits():
    """First 1 of 4, then 3 of 4 with the first visit at half: (0.5 + 3) / (2 + 4)."""
    history = PromptHistory(discount=0.5)
    assert history.success_rate("a") is None
    history.observe("a", 1, 4)
    assert history.success_rate("a") == 0.25
    history.observe("a", 3, 4)
    assert history.success_rate("a") == pytest.approx(3.5 / 6)
    assert history.success_rate("b") is None
    history.observe("b", 0, 0)
    assert history.success_rate("b") is None


def test_history_forgets_the_prompt_seen_longest_ago():
    history = PromptHistory(max_prompts=2)
    for key in ("a", "b", "a", "c"):
        history.observe(key, 1, 2)
    assert history.success_rate("b") is None
    assert history.success_rate("a") == history.success_rate("c") == 0.5
    assert history.metrics() == {"quality/prompts_known": 2.0}


def test_history_survives_a_restart_with_its_order():
    history, again = PromptHistory(max_prompts=2), PromptHistory(max_prompts=2)
    for key in ("a", "b", "a"):
        history.observe(key, 1, 3)
    again.load(history.save())
    for each in (history, again):
        each.observe("c", 2, 2)
        assert each.success_rate("b") is None
    assert again.save() == history.save()
