"""Judgements of replayed designs against the closed form and against enumeration."""

import numpy as np
import pytest

from arrol.configs.base import validate
from arrol.configs.run import RunConfig
from arrol.errors import ConfigError, DataError
from arrol.lab.costs import cost_model
from arrol.lab.merit import Design, _relative_bias, base_config, design_config, judge, merits
from arrol.lab.moments import Moments
from arrol.lab.pool import Pool

OBSERVED = {"pruning": {"rule": "uniform", "keep_ratio": 1.0, "probe_tokens": [4]}}
"""Replayed, and yet every rollout is kept."""


def test_a_replay_that_stops_none_is_the_closed_form(pool, base):
    whole, replayed = judge(pool, Design("a"), base), judge(pool, Design("b", OBSERVED), base, visits=100)
    np.testing.assert_allclose(replayed.error_P, whole.error_P, rtol=1e-6)  # only the difference is averaged: it is 0
    for ours, exact in zip(replayed.counts_P, whole.counts_P, strict=True):
        np.testing.assert_allclose(ours.mean(), exact.mean(), rtol=0.05)
    assert replayed.kept == 1
    assert not replayed.is_biased


@pytest.mark.parametrize("correction", ["ipw", "doubly_robust"])
@pytest.mark.parametrize("rule", [{"rule": "uniform"}, {"rule": "neyman"}])
def test_unbiased_designs_have_no_bias_and_more_error_than_the_whole_group(pool, base, rule, correction):
    change = {
        "pruning": {**rule, "keep_ratio": 0.5, "probe_tokens": [4], "min_survivors": 0, "draw": "bernoulli"},
        "algorithm": {"correction": correction},
    }
    whole, pruned = judge(pool, Design("a"), base), judge(pool, Design("b", change), base, visits=120)
    assert not pruned.is_biased or pruned.bias < 0.1
    assert pruned.error_P.mean() > whole.error_P.mean()
    assert 0.4 < pruned.kept < 0.75


def test_the_error_of_stopping_at_random_agrees_with_brute_force(pool, base):
    """Every candidate survives with one half, ipw: the plain estimator drawn many times, without this package."""
    change = {
        "pruning": {"rule": "uniform", "keep_ratio": 0.5, "probe_tokens": [4], "min_survivors": 0, "draw": "bernoulli"},
        "algorithm": {"correction": "ipw", "thinning": 0.0},
    }
    judged = judge(pool, Design("b", change), base, visits=400)
    rng, gradient_PD = np.random.default_rng(1), Moments.of(pool).gradient_PD
    errors = []
    for p in range(pool.num_prompts):
        reward, sketch, length = pool.reward_PN[p].astype(float), pool.sketch_PND[p].astype(float), pool.length_PN[p]
        for _ in range(3000):
            rows = rng.integers(0, len(reward), 4)
            weight = np.where(length[rows] <= 4, 1.0, 2.0 * (rng.random(4) < 0.5))
            value = weight * reward[rows]
            others = (value.sum() - value) / 3
            advantage = weight * (reward[rows] - others)
            errors.append((((advantage @ sketch[rows]) / 4 - gradient_PD[p]) ** 2).sum())
    assert judged.error_P.mean() == pytest.approx(np.mean(errors), rel=0.06)


def test_training_on_a_chosen_subset_is_a_bias(pool, base):
    change = {"allocation": {"rule": "pods", "train_size": 2}, "training": {"group_size": 8}}
    judged = judge(pool, Design("pods", change), base, visits=150)
    assert judged.is_biased
    assert judged.bias > 0.02


def test_merits_stand_beside_the_reference(pool, base):
    moments, model = Moments.of(pool), cost_model("flops", pool)
    found = [judge(pool, Design(str(size), {"training": {"group_size": size}}), base) for size in (4, 8)]
    first, second = merits(found, moments, model)
    assert (first.merit, first.low, first.high) == (1.0, 1.0, 1.0)
    expected = (moments.between + first.error) * first.cost / ((moments.between + second.error) * second.cost)
    assert second.merit == pytest.approx(expected)
    assert second.low <= second.merit <= second.high


def test_intervals_hold_the_merit_of_another_pool(base):
    from lab.conftest import make_pool

    model = cost_model("flops", make_pool())
    designs = [Design(str(size), {"training": {"group_size": size}}) for size in (4, 2)]
    rows = []
    for seed in (0, 1):
        pool = make_pool(prompts=60, seed=seed)
        rows.append(merits([judge(pool, d, base) for d in designs], Moments.of(pool), model)[1])
    assert rows[0].low <= rows[1].merit <= rows[0].high


def test_every_design_fills_its_step_with_as_many_rollouts(base):
    config = design_config(base, Design("a", {"training": {"group_size": 2}}))
    assert config.training.prompts_per_step * 2 == base.training.prompts_per_step * base.training.group_size


@pytest.mark.parametrize("engine", [{"name": "embedded", "dtype": "bfloat16"}, {"name": "vllm", "dtype": "bfloat16"}])
@pytest.mark.parametrize(
    "change",
    [
        {"pruning": {"rule": "uniform", "probe_tokens": [4]}, "algorithm": {"correction": "ipw"}},
        {"algorithm": {"name": "dapo"}},
        {"algorithm": {"thinning": 0.5, "thins": "always"}},
    ],
)
def test_the_engine_that_wrote_a_pool_forbids_no_design(pool, engine, change):
    values = {**pool.meta["config"], "engine": engine}
    values["algorithm"] = {**values["algorithm"], "importance_cap": 2.0}
    base = base_config(validate(RunConfig, values))
    assert design_config(base, Design("d", change)).engine.dtype == "float32"


def test_a_pool_without_gradients_is_refused(base):
    pool = Pool(("a",), np.eye(2)[:1], np.ones((1, 2), int))
    with pytest.raises(DataError, match="pool: has no gradients"):
        judge(pool, Design("a"), base)


def test_equal_rewards_are_refused(base):
    pool = Pool(("a",), np.ones((1, 3)), np.ones((1, 3), int), sketch_PND=np.ones((1, 3, 2)))
    with pytest.raises(DataError, match="rewards of every prompt are equal"):
        judge(pool, Design("a"), base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pruning": {"rule": "oracle", "probe_tokens": [4]}}, "pruning.rule = 'oracle'"),
        (
            {"pruning": {"rule": "uniform", "probe_tokens": [5]}},
            r"probe_tokens = \[5\]: the pool read features at 4, 8",
        ),
        ({"training": {"group_size": 0}}, "training.group_size"),
    ],
)
def test_impossible_designs_are_one_line(pool, base, change, message):
    with pytest.raises(ConfigError, match=message):
        judge(pool, Design("a", change), base)


def test_heavy_noise_is_seldom_called_a_bias_and_a_shift_is(pool):
    moments = Moments.of(pool)
    shape = (256, moments.gradient_PD.shape[1])

    def alarms(shift, count=200):
        drifts = (np.random.default_rng(seed).standard_t(2.1, shape) + shift for seed in range(count))
        return sum(_relative_bias(drift_VD, moments)[1] for drift_VD in drifts)

    assert alarms(0.0) <= 4
    assert alarms(0.5, 20) == 20
