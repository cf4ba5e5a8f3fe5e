"""Stops along the length: the estimate against brute force and against a replay, the share, the shorter step."""

from dataclasses import replace

import numpy as np
import pytest

from arrol.configs.host import parse_host
from arrol.lab import stops
from arrol.lab.costs import CostModel, cost_model
from arrol.lab.designs import stop_designs
from arrol.lab.levers import levers, lines, paying_stops
from arrol.lab.merit import Design, design_config, judge, merits
from arrol.lab.moments import Moments, longest_mean
from arrol.lab.stops import Stop, best_stop, late_probes, late_stops
from lab.conftest import make_pool

SIZE, PER_STEP = 4, 24


def long_tail_pool(rollouts=40):
    """Every eighth rollout is wrong, runs to token 200 and has a tenth of a gradient."""
    pool = make_pool(rollouts=rollouts)
    is_long_PN = np.zeros((pool.num_prompts, rollouts), bool)
    is_long_PN[:, 3::8] = True
    length_PN = np.where(is_long_PN, 200, pool.length_PN).astype(np.int32)
    sketch_PND = np.where(is_long_PN[..., None], 0.1 * pool.sketch_PND, pool.sketch_PND)
    quality_PNK = np.where(length_PN[..., None] >= np.array([8, 40]), 0.3, np.nan).astype(np.float32)
    return replace(
        pool,
        reward_PN=np.where(is_long_PN, 0, pool.reward_PN).astype(np.float32),
        length_PN=length_PN,
        sketch_PND=sketch_PND,
        probe_tokens=(8, 40),
        quality_PNK=quality_PNK,
        logprobs_T=np.zeros(0, np.float32),
        token_ids_T=np.zeros(0, np.int32),
    )


@pytest.fixture
def long_base(base):
    return base.model_copy(update={"sampling": base.sampling.model_copy(update={"max_completion_tokens": 256})})


def plain(design):
    """The design with the estimator of the formula: ipw, no lottery before the update."""
    algorithm = {"correction": "ipw", "thinning": 0.0}
    return Design(design.name, {**design.change, "algorithm": algorithm})


def test_the_longest_rollouts_end_a_step_earlier():
    pool = replace(make_pool(prompts=1, rollouts=2), length_PN=np.array([[2, 10]]))
    sizes = np.ones(1)
    assert longest_mean(pool, sizes, 1) == pytest.approx(6)
    assert longest_mean(pool, sizes, 1, (4, 0.5)) == pytest.approx(0.5 * 2 + 0.25 * 4 + 0.25 * 10)


def test_probes_are_the_nearest_to_the_long_quantiles(pool):
    assert late_probes(pool) == [8]
    assert late_probes(long_tail_pool()) == [8, 40]
    assert late_probes(replace(pool, probe_tokens=(4, 300))) == [4]
    assert late_probes(replace(pool, probe_tokens=(300,))) == []
    assert late_stops(replace(pool, features_PNKF=np.zeros((0, 0, 0, 0))), Moments.of(pool), None, 4, 24) == []


def test_the_estimate_is_the_merit_of_independent_draws(pool, base, monkeypatch):
    """Beside a brute force that uses nothing of the package, and beside a replay."""
    monkeypatch.setattr(stops, "KEEPS", (0.4,))
    moments, model = Moments.of(pool), cost_model("flops", pool)
    stop = best_stop(pool, moments, model, SIZE, PER_STEP, 8)
    rng, errors = np.random.default_rng(1), []
    for p in range(pool.num_prompts):
        reward, sketch, length = pool.reward_PN[p].astype(float), pool.sketch_PND[p].astype(float), pool.length_PN[p]
        rows = rng.integers(0, len(reward), (4000, SIZE))
        weight = np.where(length[rows] <= 8, 1.0, (rng.random(rows.shape) < 0.4) / 0.4)
        value = weight * reward[rows]
        advantage = weight * (reward[rows] - (value.sum(1, keepdims=True) - value) / (SIZE - 1))
        estimate = np.einsum("vg,vgd->vd", advantage, sketch[rows]) / SIZE
        errors.append(((estimate - moments.gradient_PD[p]) ** 2).sum(1).mean())
    found = [judge(pool, Design("a", {"training": {"group_size": SIZE}}), base)]
    found.append(judge(pool, plain(stop.design(SIZE)), base, visits=200))
    rows = [stops._Weighted.of(pool, p, pool.length_PN[p] > 8).error(SIZE, 1.5) for p in range(pool.num_prompts)]
    assert np.mean(rows) == pytest.approx(np.mean(errors), rel=0.04)
    assert found[1].error_P.mean() == pytest.approx(np.mean(errors), rel=0.12)
    assert not found[1].is_biased
    assert stop.gain == pytest.approx(merits(found, moments, model)[1].merit, rel=0.12)


def test_without_a_stop_the_error_is_that_of_whole_groups(pool, monkeypatch):
    monkeypatch.setattr(stops, "KEEPS", (1.0,))
    model = cost_model("7b", pool)
    assert best_stop(pool, Moments.of(pool), model, SIZE, PER_STEP, 8).gain == pytest.approx(1, rel=1e-6)
    rows = [stops._Weighted.of(pool, p, pool.length_PN[p] > 8).error(SIZE, 0) for p in range(pool.num_prompts)]
    np.testing.assert_allclose(rows, Moments.of(pool).error_P(float(SIZE)), rtol=1e-5)


def test_the_share_is_the_root_of_contribution_over_cost():
    """Large groups, cost linear in the share: eps^2 = M (C - R) / (R (sigma_b^2 + V - M))."""
    pool = long_tail_pool()
    moments, model, size = Moments.of(pool), CostModel("rows", 1.0, 0.0, 0.0, 0.0), 64
    stop = best_stop(pool, moments, model, size, 1.0, 40)
    is_long_PN = pool.length_PN > 40
    centre_P1D = pool.sketch_PND.mean(1, keepdims=True)
    advantage_PN = pool.reward_PN - pool.reward_PN.mean(1, keepdims=True)
    phi_PND = advantage_PN[..., None] * pool.sketch_PND - pool.reward_PN[..., None] * centre_P1D
    added = ((phi_PND**2).sum(-1) * is_long_PN).mean() / size
    whole, rest = pool.length_PN.mean() * size, ((pool.length_PN - 40) * is_long_PN).mean() * size
    noise = moments.between + moments.error_P(float(size)).mean()
    best = np.sqrt(added * (whole - rest) / (rest * (noise - added)))
    nearest = min(stops.KEEPS, key=lambda keep: abs(np.log(keep / best)))
    assert abs(stops.KEEPS.index(stop.keep) - stops.KEEPS.index(nearest)) <= 1
    assert stop.signal < 0.05


def test_a_tail_without_signal_is_stopped_and_the_step_is_shorter(long_base):
    """Steps of 48 prompts: without a stop the longest rollout sets the end of nearly every one."""
    pool = long_tail_pool()
    moments, model = Moments.of(pool), cost_model("7b", pool)
    stop = max(late_stops(pool, moments, model, SIZE, PER_STEP), key=lambda each: each.gain)
    assert stop.gain > 1.1
    few = long_base.model_copy(update={"training": long_base.training.model_copy(update={"prompts_per_step": 2})})
    whole, stopped = (
        judge(pool, design, few, visits=120)
        for design in (Design("a", {"training": {"group_size": SIZE}}), stop.design(SIZE))
    )
    assert not stopped.is_biased or stopped.bias < 0.1
    assert stopped.counts_P.decode_steps.mean() < 0.6 * whole.counts_P.decode_steps.mean()
    expected = longest_mean(pool, np.full(pool.num_prompts, SIZE), 2, (stop.probe, stop.keep)) / 2
    assert stopped.counts_P.decode_steps.mean() == pytest.approx(expected, rel=0.15)
    assert merits([whole, stopped], moments, model)[1].merit > 1.1


def test_the_advice_has_the_stop_where_it_pays_only(pool, base, long_base):
    def names(one, cost, base):
        rows = levers(one, base, cost_model(cost, one), visits=1).rows
        return [row.design.name for row in rows if "stopped at" in row.design.name]

    assert names(long_tail_pool(), "7b", long_base)
    assert not names(pool, "flops", base)
    found = {8: [Stop(40, 0.1, 0.1, 0.2, 0.9), Stop(80, 0.1, 0.1, 0.2, 1.1)], 4: [], 2: [Stop(4, 0.8, 1, 1, 0.9)]}
    assert [design.name for design in paying_stops(found)] == ["longest 10 % stopped at 80, kept 0.1, group of 8"]


def test_every_host_gets_the_stop(long_base):
    """A group of 2 too: a floor of survivors would refuse it."""
    pool = long_tail_pool()
    designs = stop_designs(pool, cost_model("7b", pool), 2, 48.0)
    assert [design.change["pruning"]["probe_tokens"] for design in designs] == [[8], [40]]
    for design in designs:
        assert design_config(long_base, design).pruning.min_survivors == 0
    found = lines(designs[1], long_base)
    keep = designs[1].change["pruning"]["keep_ratio"]
    options = f"rule_options={{'draw': 'bernoulli', 'min_survivors': 0, 'min_survival': {keep}}}"
    call = f"num_generations=2, rule='uniform', keep_ratio={keep}, probe_tokens=[40], correction='ipw', {options}"
    assert found["trl"][0] == f"GRPOConfig({call})"
    assert found["verl"][0].endswith(
        f"+arrol.rule=uniform +arrol.keep_ratio={keep} +arrol.probe_tokens=[40] +arrol.draw=bernoulli "
        f"+arrol.min_survivors=0 +arrol.min_survival={keep}"
    )
    assert "min_survivors = 0" in found["arrol"]
    pruning = parse_host(dict(designs[1].change["pruning"])).pruning
    assert (pruning.draw, pruning.min_survivors, pruning.keep_ratio) == ("bernoulli", 0, keep)
