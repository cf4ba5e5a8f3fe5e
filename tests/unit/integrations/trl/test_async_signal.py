"""What is delivered, and the factor that turns TRL's count of tokens into the weighted one."""

import numpy as np
import pytest

from arrol.algorithms.allocation.selection import Selection, whole
from arrol.algorithms.lesson import Lesson
from arrol.configs.host import parse_host
from arrol.integrations.trl.async_signal import delivered_groups
from arrol.integrations.trl.batch import RewardedGroup
from arrol.integrations.trl.signal import OutcomeValues
from arrol.types import Completion, FinishReason, Prompt, PruningDecision, Reason, Rollout, RolloutGroup, RolloutId


def group_of(number, rewards, survival, tokens):
    """None as a reward: stopped at the probe."""
    rollouts = []
    for index, (reward, p, length) in enumerate(zip(rewards, survival, tokens, strict=True)):
        rollout_id = RolloutId(1, number, index)
        reason = FinishReason.PRUNED if reward is None else FinishReason.STOP
        completion = Completion((2,) * length, np.zeros(length, np.float32), reason)
        decision = None
        if p < 1:
            decision = PruningDecision(rollout_id, 0, reward is not None, p, Reason.DRAW, quality=0.5)
        label = None if reward is None or np.isnan(reward) else float(reward)
        rollouts.append(Rollout(rollout_id, completion, decision, label))
    total_G = np.array([np.nan if reward is None else reward for reward in rewards], float)
    return RewardedGroup(RolloutGroup(Prompt(str(number), (5,), "", ""), rollouts), total_G, total_G)


PRUNED = group_of(0, [1.0, 0.0, None, None], [0.5] * 4, [4, 6, 3, 3])
WHOLE = group_of(1, [1.0, 0.0, 0.0, 1.0], [1.0] * 4, [2, 3, 4, 5])


def delivered(groups, lessons=None, **options):
    config = parse_host({"rule": "uniform", "probe_tokens": [3], "thinning": 0.0, **options})
    lessons = lessons or [Lesson(whole(4)) for _ in groups]
    return delivered_groups(groups, lessons, config, OutcomeValues(), seed=0)


def test_where_nothing_could_be_stopped_advantages_are_trls():
    for correction in ("plain", "ipw", "doubly_robust"):
        (found,) = delivered([WHOLE], correction=correction)
        reward_G = WHOLE.total_G
        assert found.rows.tolist() == [0, 1, 2, 3]
        expected = (reward_G - reward_G.mean()) / (reward_G.std() + 1e-8)
        np.testing.assert_allclose(found.advantage_G, expected, rtol=1e-12)


def test_under_plain_the_survivors_mean_is_the_baseline_and_tokens_count_once():
    pruned, complete = delivered([PRUNED, WHOLE], correction="plain")
    assert pruned.rows.tolist() == [0, 1]
    np.testing.assert_allclose(pruned.advantage_G, [1.0, -1.0, 0.0, 0.0], rtol=1e-7)
    np.testing.assert_allclose(complete.advantage_G, [1.0, -1.0, -1.0, 1.0], rtol=1e-7)


def test_a_weighted_batch_is_divided_by_its_weighted_tokens():
    """D = 4 + 6 + 14 tokens are delivered; W = 2 (4 + 6) + 14 stand for the rollouts started."""
    pruned, complete = delivered([PRUNED, WHOLE], correction="ipw")
    factor = (10 + 14) / (2 * 10 + 14)
    np.testing.assert_allclose(complete.advantage_G, np.array([1.0, -1.0, -1.0, 1.0]) * factor, rtol=1e-7)
    alone = delivered([PRUNED], correction="ipw")[0].advantage_G / (10 / 20)
    np.testing.assert_allclose(pruned.advantage_G, alone * factor, rtol=1e-12)
    assert pruned.advantage_G[2:].tolist() == [0.0, 0.0]


def test_rows_that_a_selection_leaves_out_are_not_delivered_and_not_counted():
    train_G = np.array([True, True, False, False])
    lesson = Lesson(Selection(train_G, np.ones(4), baseline="kept", reason="surplus"))
    (found,) = delivered([WHOLE], [lesson], allocation={"rule": "pods", "train_size": 2})
    assert found.rows.tolist() == [0, 1]
    assert found.advantage_G[0] == pytest.approx(-found.advantage_G[1])


def test_thinned_rows_leave_the_queue_and_stay_in_the_denominator():
    """Expected over the lottery, the sum of what is delivered is that of all rows."""
    config = parse_host({"rule": "uniform", "probe_tokens": [3], "thinning": 0.9, "correction": "ipw"})
    graded = group_of(0, [1.0, 0.62, 0.5, 0.45], [0.5] * 4, [4] * 4)
    lessons, values = [Lesson(whole(4))], OutcomeValues()
    (every,) = delivered([graded], correction="ipw")
    sums, counts = [], []
    for seed in range(2000):
        (found,) = delivered_groups([graded], lessons, config, values, seed=seed)
        # TRL divides by the tokens delivered, so a token's weight is advantage / (4 len(rows))
        sums.append(found.advantage_G[found.rows].sum() / len(found.rows) if len(found.rows) else 0.0)
        counts.append(len(found.rows))
    assert min(counts) < 4
    assert np.mean(sums) == pytest.approx(every.advantage_G.sum() / 4, abs=0.02)


def test_a_survivor_without_a_reward_is_delivered_without_advantage():
    (found,) = delivered([group_of(0, [1.0, 0.0, np.nan, 1.0], [1.0] * 4, [3] * 4)], correction="plain")
    assert found.rows.tolist() == [0, 1, 2, 3]
    assert found.advantage_G[2] == 0.0
    assert np.isfinite(found.advantage_G).all()


def test_a_batch_without_any_reward_delivers_no_lesson():
    groups = delivered([group_of(0, [np.nan] * 4, [0.5] * 4, [3] * 4)], correction="doubly_robust")
    assert not np.nan_to_num(groups[0].advantage_G, nan=9.0).any()


def test_an_all_wrong_pruned_batch_is_delivered_with_advantages_of_zero():
    """TRL would wait for ever for a batch of which nothing comes."""
    (found,) = delivered([group_of(0, [0.0, 0.0, None, None], [0.5] * 4, [3] * 4)], correction="ipw", thinning=0.5)
    assert found.rows.tolist() == [0, 1]
    assert not found.advantage_G.any()
