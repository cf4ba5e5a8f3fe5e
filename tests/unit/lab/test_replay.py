"""Steps of training on a pool."""

from dataclasses import replace

import numpy as np
import pytest

from arrol.lab import replay as replay_module
from arrol.lab.merit import Design, design_config
from arrol.lab.replay import PoolEngine, replay
from arrol.types import FinishReason, GroupRequest, Prompt, SamplingParams, Verdict


class Stopper:
    """Stops every second rollout at the first probe."""

    probe_tokens = (4,)

    def __init__(self):
        self.finished_ids, self.seen = [], []

    def open(self, *args, **kwargs):
        pass

    def probed(self, events):
        self.seen += events
        return [event.rollout_id for event in events if event.rollout_id.index % 2]

    def finished(self, ids):
        self.finished_ids += ids
        return []

    def lost(self, ids):
        return []

    def tick(self, now):
        return []


def test_rollouts_play_as_the_pool_has_them(pool):
    engine, stopper = PoolEngine(pool, seed=0), Stopper()
    requests = [GroupRequest(1, g, Prompt(pool.keys[g], (0,), "", ""), 6) for g in range(3)]
    groups = engine.generate(requests, SamplingParams(24), seed=0, controller=stopper)
    longest = 0
    for request, group in zip(requests, groups, strict=True):
        for rollout_id, completion in zip(request.rollout_ids, group, strict=True):
            prompt, rollout = engine.played[rollout_id]
            length = int(pool.length_PN[prompt, rollout])
            is_stopped = rollout_id.index % 2 and length > 4
            assert completion.finish_reason is (FinishReason.PRUNED if is_stopped else FinishReason.STOP)
            assert completion.token_ids == pool.tokens(prompt, rollout, 4 if is_stopped else length)
            assert (rollout_id in stopper.finished_ids) != bool(is_stopped)
            longest = max(longest, completion.num_tokens)
    assert engine.decode_steps == longest
    for event in stopper.seen:
        prompt, rollout = engine.played[event.rollout_id]
        assert 1 / (1 + np.exp(-event.score)) == pytest.approx(float(pool.quality_PNK[prompt, rollout, 0]), rel=1e-5)


def test_the_same_seed_draws_the_same_rollouts(pool, base):
    def places(seed):
        return [visit.rollout_R.tolist() for step in replay(pool, base, steps=3, seed=seed) for visit in step]

    assert places(0) == places(0) != places(1)


def test_an_epoch_visits_every_prompt_once(pool, base):
    (step,) = replay(pool, base, steps=1)
    assert sorted(visit.prompt for visit in step[:6]) == list(range(6))


@pytest.mark.parametrize("rule", ["aero", "dapo", "greso", "knapsack", "pilot_commit", "pods", "cppo", "mopps"])
def test_every_allocation_rule_plays(pool, base, rule):
    config = design_config(base, Design("a", {"training": {"group_size": 8}, "allocation": {"rule": rule}}))
    steps = list(replay(pool, config, steps=6))
    assert all(np.isfinite(visit.factor_R).all() for step in steps for visit in step)
    assert any(visit.factor_R.any() for step in steps for visit in step)


def test_rules_hear_what_is_right_and_train_on_rewards(pool, base, monkeypatch):
    heard = []
    real = Verdict

    def verdict(reward, answer, *, success):
        heard.append((reward, success))
        return real(reward, answer, success=success)

    monkeypatch.setattr(replay_module, "Verdict", verdict)
    list(replay(replace(pool, success_PN=(pool.reward_PN == 0).astype(np.float32)), base, steps=2))
    assert {(reward, success) for reward, success in heard} == {(0.0, 1.0), (1.0, 0.0)}


def test_whole_groups_have_the_sample_covariance(pool, base):
    (visit, *_), *_ = replay(pool, base, steps=1)
    reward = pool.reward_PN[visit.prompt, visit.rollout_R]
    np.testing.assert_allclose(visit.factor_R, (reward - reward.mean()) / 4, atol=1e-7)


def test_auto_hears_of_outcomes_and_your_own_rule_replaces_the_config_s(pool, base, monkeypatch):
    monkeypatch.setattr("arrol.pruning.auto.MIN_MERIT", 0.0)
    auto = design_config(
        base, Design("auto", {"pruning": {"rule": "auto", "probe_tokens": [4]}, "algorithm": {"correction": "ipw"}})
    )
    kept = [np.mean([visit.is_kept_R.mean() for visit in step]) for step in replay(pool, auto, steps=8)]
    assert kept[:2] == [1.0, 1.0]
    assert min(kept[3:]) < 1.0
    own = design_config(base, Design("own", {"pruning": {"rule": "uniform", "probe_tokens": [4], "min_survivors": 0}}))
    share = []
    for survival in (0.3, 0.9):
        steps = replay(pool, own, steps=3, survival=lambda c, p=survival: np.full(len(c.quality_C), p))
        share.append(np.mean([visit.is_kept_R.mean() for step in steps for visit in step]))
    assert share[0] < 0.55 < 0.8 < share[1]
