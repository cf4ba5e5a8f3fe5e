"""What is remembered, what is forgotten, and that a restart changes neither."""

import numpy as np
import pytest

from arrol.quality.buffer import ProbeBuffer, PromptHistory, outcome_counts
from rollouts import group_of, rollout


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


def test_without_pruning_counts_are_counts():
    rewards = [1.0, 0.0, 0.0, 1.0, 0.0]
    assert outcome_counts(group_of(rewards).rollouts) == pytest.approx((2, 3))
    assert outcome_counts(group_of(rewards, survival=0.4).rollouts) == pytest.approx((2, 3))  # equal weights are none
    assert outcome_counts([]) == outcome_counts(group_of([None, None], reason="error").rollouts) == (0, 0)


def test_a_few_heavy_survivors_are_not_taken_for_many():
    """Weights 4 and 1: rate 4/5, worth 25/17 rollouts."""
    rollouts = [rollout(0, 1.0, survival=0.25), rollout(1, 0.0), rollout(2, None, reason="pruned", survival=0.5)]
    assert outcome_counts(rollouts) == pytest.approx((25 / 17 * 0.8, 25 / 17 * 0.2))


def test_stopped_rollouts_enter_by_their_quality_where_it_is_used():
    """(q + (1 - q)/p, q, q of the stopped) = (.5 + 1, .2 - .2/.5, .4), their mean .4333; worth 2 as before."""
    rollouts = [
        rollout(0, 1.0, survival=0.5, quality=0.5),
        rollout(1, 0.0, survival=0.5, quality=0.2),
        rollout(2, None, reason="pruned", survival=0.5, quality=0.4),
    ]
    right, wrong = outcome_counts(rollouts, use_quality=True)
    assert right + wrong == pytest.approx(2)
    assert right / 2 == pytest.approx((1.5 - 0.2 + 0.4) / 3)
    assert outcome_counts(rollouts) == pytest.approx((1, 1))
    certain = [rollout(0, 1.0, survival=0.1, quality=0.1), rollout(1, None, reason="pruned", survival=0.1, quality=0.1)]
    assert outcome_counts(certain, use_quality=True) == pytest.approx((1, 0))  # an estimate beyond 1 is 1


def test_truncated_rollouts_count_as_wrong_or_not_at_all():
    rollouts = [rollout(0, 1.0), rollout(1, 0.0, reason="length"), rollout(2, 0.0)]
    assert outcome_counts(rollouts) == pytest.approx((1, 2))
    assert outcome_counts(rollouts, count_truncated=False) == pytest.approx((1, 1))


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.8])
def test_weighted_counts_recover_the_rate_under_informed_pruning_and_plain_ones_do_not(rate):
    """Right rollouts survive with .8, wrong ones with .3; the quality knows half of it."""
    rng, count = np.random.default_rng(0), 20_000
    right_N = rng.random(count) < rate
    survival_N = np.where(right_N, 0.8, 0.3)
    quality_N = np.where(right_N, 0.7, 0.4) * rng.random(count)
    kept_N = rng.random(count) < survival_N
    rollouts = [
        rollout(i, float(right) if kept else None, reason="stop" if kept else "pruned", survival=p, quality=q)
        for i, (right, kept, p, q) in enumerate(zip(right_N, kept_N, survival_N, quality_N, strict=True))
    ]
    for use_quality in (False, True):
        found = outcome_counts(rollouts, use_quality=use_quality)
        assert found[0] / sum(found) == pytest.approx(right_N.mean(), abs=0.02)
    weight_N = 1 / survival_N[kept_N]
    assert sum(found) == pytest.approx(weight_N.sum() ** 2 / (weight_N**2).sum())
    assert right_N[kept_N].mean() > rate + 0.1


def test_a_visit_without_outcomes_is_none():
    history = PromptHistory()
    history.learn([group_of([None, None], reason="error"), group_of([1.0, 0.0, 0.0])])
    assert history.success_rate("p") == pytest.approx(1 / 3)
    assert history.counts("p") == pytest.approx((0.5, 1.0))
    history.learn([group_of([None], reason="error")])
    assert history.counts("p") == pytest.approx((0.5, 1.0))
    assert history.counts("q") == (0, 0)


def test_counts_read_labels_where_the_task_tells_them_apart_from_rewards():
    rollouts = group_of([3.0, 0.1, 5.0, 0.9]).rollouts
    for one, success in zip(rollouts, (0.0, 1.0, float("nan"), None), strict=True):
        one.success = success
    assert outcome_counts(rollouts) == pytest.approx((2, 1))
