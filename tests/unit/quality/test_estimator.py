"""The estimator as a whole: judged before it learns, it learns what can be learnt; a restart changes nothing."""

import numpy as np
import pytest

from arrol.configs.method import QualityConfig
from arrol.quality.estimator import QualityEstimator
from arrol.quality.features import END, FeatureLayout
from arrol.quality.snapshot import EstimatorSnapshot
from arrol.types import Completion, FinishReason, Prompt, PruningDecision, Reason, Rollout, RolloutGroup, RolloutId

LAYOUT = FeatureLayout(("logprobs",), 1)
FAST = {"hidden_size": 16, "learning_rate": 1e-2, "min_class_records": 8, "num_bins": 8}


def estimator_of(probes=(8,), seed=0, **config):
    return QualityEstimator(QualityConfig(features=("logprobs",), **{**FAST, **config}), LAYOUT, probes, seed=seed)


def rollout(index, features_at, reward, survival=None):
    reason = FinishReason.STOP if reward is not None else FinishReason.PRUNED
    rollout_id = RolloutId(1, 0, index)
    decision = None
    if survival is not None:
        decision = PruningDecision(rollout_id, 0, reward is not None, survival, Reason.DRAW)
    features = {length: np.asarray(row, np.float32) for length, row in features_at.items()}
    return Rollout(rollout_id, Completion((1,), np.zeros(1, np.float32), reason, features), decision, reward)


def group(rollouts):
    return RolloutGroup(Prompt("p", (1,), "", ""), list(rollouts))


def step_of(seed, groups=12, size=8, probes=(8,)):
    """The second feature tells siblings apart, the first one prompts; the outcome follows both."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(groups):
        ease = rng.normal()
        rollouts = []
        for index in range(size):
            luck = rng.normal()
            features = [50 * ease, luck, rng.normal()]
            rollouts.append(rollout(index, dict.fromkeys(probes, features), float(ease + 2 * luck > 0)))
        made.append(group(rollouts))
    return made


def test_before_it_has_learnt_all_are_even():
    estimator = estimator_of()
    score = estimator.scores(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), 0)
    assert score.tolist() == [0] * 4
    assert estimator.quality(score, 0).tolist() == [0.5] * 4
    assert estimator.version == 0


def test_it_learns_to_tell_siblings_apart_and_is_judged_first():
    estimator = estimator_of()
    history = [estimator.learn(step_of(seed)) for seed in range(12)]
    assert estimator.version == 12
    first, last = history[0], history[-1]
    # Judged before it has learnt: an untrained head knows nothing of the step it is about to learn from.
    assert first["quality/auroc_within_prompt"] == 0.5
    assert first["quality/auroc_pooled"] == 0.5
    assert first["quality/brier"] == 0.25
    assert last["quality/auroc_within_prompt"] > 0.9
    assert last["quality/brier"] < 0.15
    assert last["quality/ece"] < 0.15
    assert last["quality/head_loss"] < 0.6 * first["quality/head_loss"]
    assert estimator.metrics() == last


def test_noise_stays_noise_in_the_prequential_figures():
    """Labels are coin flips: a head judged on what it had learnt would look good, this one must not."""
    rng, found = np.random.default_rng(0), []
    estimator = estimator_of(passes=10)
    for _ in range(8):
        rows = rng.normal(size=(8, 8, 3))
        groups = [group(rollout(i, {8: row}, float(rng.random() < 0.5)) for i, row in enumerate(part)) for part in rows]
        found.append(estimator.learn(groups)["quality/auroc_within_prompt"])
    assert abs(np.mean(found[1:]) - 0.5) < 0.08


@pytest.mark.parametrize(("weight_labels", "expected"), [(True, 10 / 13), (False, 1 / 4)])
def test_survivors_stand_for_the_stopped(weight_labels, expected):
    """One right survivor of survival 0.1 beside three wrong ones of survival 1, and nothing to tell them apart by."""
    estimator = estimator_of(weight_labels=weight_labels, passes=20)
    for _ in range(12):
        rollouts = [rollout(i, {8: [1, 1, 1]}, float(i % 4 == 0), 0.1 if i % 4 == 0 else 1.0) for i in range(32)]
        estimator.learn([group(rollouts)])
    score = estimator.scores(np.ones((1, 3), np.float32), 0)
    assert 1 / (1 + np.exp(-score[0])) == pytest.approx(expected, abs=0.05)
    assert estimator.quality(score, 0)[0] == pytest.approx(expected, abs=0.03)


def test_it_learns_from_finished_candidates_only():
    estimator = estimator_of()
    estimator.learn(
        [
            group(
                [
                    rollout(0, {8: [1, 2, 3]}, 1.0),
                    rollout(1, {}, 0.0),  # ended before the probe
                    rollout(2, {8: [4, 5, 6]}, None, 0.5),  # stopped: unknown
                ]
            )
        ]
    )
    assert estimator.save()["probes"]["0"]["buffer"]["features"].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(("reward", "prior"), [(1.0, 1.0), (0.0, 0.0)])
def test_one_class_alone_means_the_prior_for_all(reward, prior):
    estimator = estimator_of()
    for seed in range(3):
        groups = step_of(seed)
        for each in groups:
            for member in each.rollouts:
                member.reward = reward
        metrics = estimator.learn(groups)
    score = estimator.scores(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), 0)
    assert estimator.quality(score, 0).tolist() == [prior] * 5
    assert np.isnan(metrics["quality/auroc_pooled"])


def test_an_empty_step_is_no_event():
    estimator = estimator_of()
    estimator.learn([])
    estimator.learn([group([rollout(0, {}, 1.0)])])
    assert estimator.version == 2
    assert estimator.quality(np.zeros(1), 0).tolist() == [0.5]


def test_features_that_are_no_number():
    """A few rows spoilt in every step: scored as NaN, judged without, learnt without, nothing else disturbed."""
    estimator = estimator_of()
    for seed in range(6):
        groups = step_of(seed)
        groups[0].rollouts[0].completion.features_at[8][1] = np.nan
        groups[1].rollouts[3].completion.features_at[8][:] = np.inf
        metrics = estimator.learn(groups)
        assert np.isfinite(list(metrics.values())).all()
    assert metrics["quality/auroc_within_prompt"] > 0.85
    score = estimator.scores(np.array([[np.nan, 0, 0], [0, 3, 0]], np.float32), 0)
    assert np.isnan(score[0])
    quality = estimator.quality(score, 0)
    assert np.isnan(quality[0])
    assert quality[1] > 0.7


def copied(state):
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    return np.array(state) if isinstance(state, np.ndarray) else state


def assert_same(left, right, path=""):
    assert type(left) is type(right), path
    if isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left:
            assert_same(left[key], right[key], f"{path}/{key}")
    else:
        np.testing.assert_array_equal(left, right, err_msg=path)


@pytest.mark.parametrize("before", [0, 1, 5])
def test_a_restart_continues_bit_for_bit(before):
    probes = (8, 16)
    whole = estimator_of(probes)
    for seed in range(before):
        whole.learn(step_of(seed, probes=probes))
    state = copied(whole.save())
    again = estimator_of(probes, seed=0)
    again.learn(step_of(99, probes=probes))  # whatever it knew is replaced
    again.load(state)
    features = np.random.default_rng(7).normal(size=(20, 3)).astype(np.float32)
    for seed in range(before, before + 3):
        for probe in (0, 1):
            score = whole.scores(features, probe)
            np.testing.assert_array_equal(score, again.scores(features, probe))
            np.testing.assert_array_equal(whole.quality(score, probe), again.quality(score, probe))
        first, second = (each.learn(step_of(seed, probes=probes)) for each in (whole, again))
        np.testing.assert_equal(first, second)
    assert_same(whole.save(), again.save())
    if before:
        with pytest.raises(AssertionError):
            assert_same(state, copied(whole.save()))  # what was saved did not change behind our back


def test_each_probe_has_a_head_a_table_and_figures_of_its_own():
    """The outcome can be seen at the second probe only."""
    rng = np.random.default_rng(0)
    estimator = estimator_of((8, 16))
    for seed in range(8):
        groups = step_of(seed, probes=(8, 16))
        for each in groups:
            for member in each.rollouts:
                member.completion.features_at[8] = rng.normal(size=3).astype(np.float32)
        metrics = estimator.learn(groups)
    assert metrics["quality/probe_16/auroc_within_prompt"] > 0.85
    assert metrics["quality/auroc_within_prompt"] < 0.65


def test_the_wrong_number_of_features_is_our_own_mistake():
    with pytest.raises(AssertionError):
        estimator_of().scores(np.zeros((2, 5), np.float32), 0)


@pytest.mark.parametrize("steps", [0, 1, 6])
def test_a_snapshot_judges_like_the_estimator_did_and_does_not_learn_on(steps):
    probes = (8, 16)
    estimator = estimator_of(probes)
    for seed in range(steps):
        estimator.learn(step_of(seed, probes=probes))
    snapshot = estimator.snapshot()
    features = np.random.default_rng(7).normal(size=(20, 3)).astype(np.float32)

    def judged(judge):
        score = [judge.scores(features, probe) for probe in (0, 1)]
        return np.array(score), np.array([judge.quality(score[probe], probe) for probe in (0, 1)])

    then = judged(estimator)
    for seed in range(10, 14):
        estimator.learn(step_of(seed, probes=probes))
    for frozen in (snapshot, EstimatorSnapshot.from_bytes(snapshot.to_bytes())):
        np.testing.assert_array_equal(judged(frozen), then)
        assert (frozen.version, frozen.probe_tokens, frozen.layout) == (steps, probes, LAYOUT)
    assert not np.array_equal(judged(estimator), then)


def test_ends_have_a_head_of_their_own_where_that_is_asked_for():
    estimator = estimator_of(judge_ends=True)
    assert estimator.probe_tokens == (8, END)
    for seed in range(12):
        metrics = estimator.learn(step_of(seed, probes=(END,)))
    assert metrics["quality/end/auroc_within_prompt"] > 0.8
    assert np.isnan(metrics["quality/head_loss"])
    rows = np.array([[0, -2, 0], [0, 2, 0]], np.float32)
    assert estimator.scores(rows, 0).tolist() == [0, 0]
    low, high = estimator.quality(estimator.scores(rows, 1), 1)
    assert low < 0.4 < 0.6 < high
    copy = EstimatorSnapshot.from_bytes(estimator.snapshot().to_bytes())
    assert copy.probe_tokens == (8, END)
    np.testing.assert_array_equal(copy.scores(rows, 1), estimator.scores(rows, 1))


def test_it_learns_labels_not_rewards_and_nothing_from_a_rollout_without_one():
    """Rewards of a function of the user: their size is not what is right."""
    rollouts = [rollout(n, {8: [0.0, 1.0, 0.0]}, reward) for n, reward in enumerate((3.0, 0.1, 5.0, 0.2))]
    for one, success in zip(rollouts, (0.0, 1.0, float("nan"), None), strict=True):
        one.success = success
    estimator = estimator_of()
    estimator.learn([group(rollouts)])
    assert estimator._buffers[0].label_N.tolist() == [0.0, 1.0, 0.0]
