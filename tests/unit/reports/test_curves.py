"""The arrays behind tables and pictures, on numbers small enough to check by hand."""

import dataclasses
import math
from dataclasses import replace

import numpy as np
import pytest

from arrol.records.schema import RolloutRecord, StepRecord
from arrol.reports.curves import (
    after_warmup,
    aligned,
    column_mean,
    cost_to_target,
    cost_until,
    eval_curve,
    mean_evals,
    mean_rewards,
    phase_means,
    reliability_table,
    rule_of,
    runs_by_arm,
    smoothed,
    step_seconds,
    warmup_steps,
    was_at_risk,
)


def rollout(quality=0.5, reward=1.0, survival=0.5, reason="draw", step=1, keep=True) -> RolloutRecord:
    return RolloutRecord(
        step=step,
        group=0,
        index=0,
        prompt_key="p",
        level=0,
        finish_reason="stop" if keep else "pruned",
        completion_tokens=5,
        reward=reward,
        score=0.0,
        quality=quality,
        survival=survival,
        reason=reason,
        keep=keep,
    )


class TestArms:
    def test_grpo_comes_first_then_order_of_start_and_seeds_ascend(self, plain_run):
        runs = [
            plain_run("neyman", 1, rule="neyman", started_at="2026-01-01T02"),
            plain_run("neyman", 0, rule="neyman", started_at="2026-01-01T04"),
            plain_run("balanced", 0, rule="balanced", started_at="2026-01-01T01"),
            plain_run("grpo", 0, started_at="2026-01-01T03"),
        ]
        arms = runs_by_arm(runs)
        assert list(arms) == ["grpo", "balanced", "neyman"]
        assert [run.run.seed for run in arms["neyman"]] == [0, 1]

    def test_an_unpruned_arm_of_another_name_comes_first_but_never_small_group(self, plain_run):
        arms = ["pruned", "small_group", "plain"]
        rules = {"pruned": "paper", "small_group": "never", "plain": "never"}
        runs = [plain_run(arm, rule=rules[arm], started_at=f"2026-0{at + 1}-01") for at, arm in enumerate(arms)]
        assert list(runs_by_arm(runs)) == ["plain", "pruned", "small_group"]

    def test_without_any_unpruned_arm_the_first_started_leads(self, plain_run):
        assert list(runs_by_arm([plain_run("b", rule="paper"), plain_run("a", rule="paper")])) == ["a", "b"]

    @pytest.mark.parametrize("config", [{}, {"pruning": None}, {"pruning": {}}])
    def test_a_config_without_a_rule(self, plain_run, config):
        run = plain_run()
        bare = dataclasses.replace(run, run=dataclasses.replace(run.run, config=config))
        assert rule_of(bare) == ""
        assert warmup_steps(bare) == 0


class TestCosts:
    def test_step_time_prefers_the_whole_and_adds_phases_without_it(self):
        phases = {"time/generate_s": 2.0, "time/learn_s": 1.0}
        assert step_seconds(StepRecord(step=1, metrics={**phases, "time/step_s": 3.5})) == 3.5
        assert step_seconds(StepRecord(step=1, metrics={**phases, "time/eval_s": 9.0})) == 3.0
        assert math.isnan(step_seconds(StepRecord(step=1, metrics={})))

    def test_evaluations_know_what_they_had_cost(self, plain_run):
        metrics = {"compute/flops": (5, 5, 7)}
        run = plain_run(seconds=(1, 2, 3), tokens=(10, 20, 30), accuracies={0: 0.1, 2: 0.2, 3: 0.3}, metrics=metrics)
        curve = eval_curve(run)
        assert curve.steps_E.tolist() == [0, 2, 3]
        assert curve.train_s_E.tolist() == [0, 3, 6]
        assert curve.tokens_E.tolist() == [0, 30, 60]
        assert curve.flops_E.tolist() == [0, 10, 17]

    def test_unknown_costs_are_nan(self, plain_run):
        assert np.isnan(eval_curve(plain_run(accuracies={0: 0.1, 1: 0.2})).train_s_E).all()

    def test_a_step_without_a_cost_adds_nothing(self, plain_run):
        run = plain_run(seconds=(1, math.nan, 3))
        assert cost_until(run, step_seconds, np.array([1, 2, 3])).tolist() == [1, 1, 4]

    def test_crossing_is_interpolated(self):
        # 0.2 at 0 s, 0.3 at 10 s, 0.5 at 20 s: 0.4 lies half way through the last stretch.
        cost, accuracy = np.array([0.0, 10, 20]), np.array([0.2, 0.3, 0.5])
        assert cost_to_target(cost, accuracy, 0.4) == pytest.approx(15)
        assert cost_to_target(cost, accuracy, 0.3) == pytest.approx(10)
        assert cost_to_target(cost, accuracy, 0.1) == 0
        assert cost_to_target(cost, accuracy, 0.6) == math.inf

    def test_first_crossing_counts_even_when_accuracy_falls_again(self):
        assert cost_to_target(np.array([0.0, 1, 2, 3]), np.array([0.0, 0.6, 0.1, 0.9]), 0.3) == pytest.approx(0.5)

    def test_unknown_crossing(self):
        assert math.isnan(cost_to_target(np.array([]), np.array([]), 0.5))
        assert math.isnan(cost_to_target(np.array([math.nan, math.nan]), np.array([0.1, 0.9]), 0.5))


class TestSeries:
    def test_alignment_leaves_holes_and_drops_runs_without_the_metric(self, plain_run):
        runs = [plain_run(metrics={"x": (1, math.nan, 3)}), plain_run(metrics={"x": (5,)}), plain_run(seconds=(1,))]
        steps, values = aligned(runs, "x")
        assert steps.tolist() == [1, 3]
        np.testing.assert_array_equal(values, [[1, 3], [5, math.nan]])
        assert aligned(runs, "y") is None

    def test_mean_evals_use_the_evaluations_that_all_seeds_share(self, plain_run):
        runs = [
            plain_run(seconds=(1, 1), accuracies={0: 0.1, 1: 0.2, 2: 0.3}),
            plain_run(seconds=(3, 3), accuracies={0: 0.3, 2: 0.5}),
            plain_run(accuracies={0: 0.9}),  # has only just begun
        ]
        steps, seconds, tokens, accuracies = mean_evals(runs)
        assert steps.tolist() == [0, 2]
        assert seconds.tolist() == [0, 4]
        assert np.isnan(tokens).all()
        assert accuracies.tolist() == [[0.1, 0.3], [0.3, 0.5]]
        assert mean_evals([plain_run(accuracies={3: 0.4})])[3].tolist() == [[0.4]]
        assert mean_evals([plain_run()]) is None

    def test_mean_rewards_accumulate_costs(self, plain_run):
        run = plain_run(seconds=(1, 2), metrics={"rollout/success_frac_before": (0.2, 0.4)})
        steps, seconds, tokens, shares = mean_rewards([run])
        assert (steps.tolist(), seconds.tolist()) == ([1, 2], [1, 3])
        np.testing.assert_allclose(shares, [[0.2, 0.4]])
        assert np.isnan(tokens).all()
        assert mean_rewards([plain_run()]) is None

    def test_smoothing_keeps_a_line_and_holes(self):
        line = np.arange(100.0)
        inside = smoothed(line)[4:-4]
        np.testing.assert_allclose(inside, line[4:-4])
        assert np.flatnonzero(np.isnan(smoothed(np.where(line == 50, math.nan, line)))).tolist() == [50]
        np.testing.assert_array_equal(smoothed(np.array([3.0, 1.0])), [3.0, 1.0])

    def test_column_mean_ignores_holes(self):
        means = column_mean(np.array([[1, math.nan, math.nan], [3, 4, math.nan]]))
        np.testing.assert_array_equal(means, [2, 4, math.nan])


class TestRollouts:
    def test_survivors_stand_for_the_stopped(self, plain_run):
        # One right survivor that had a chance of 1/4 stands for four, one wrong with 1 for itself: 4/5 right.
        # Effective number: (4 + 1)^2 / (16 + 1) = 25/17.
        rows = (rollout(0.55, 1.0, 0.25), rollout(0.51, 0.0, 1.0), rollout(0.52, None, 0.5, keep=False))
        (row,) = reliability_table([plain_run(rule="balanced", rollouts=rows)])
        assert row["right"] == pytest.approx(0.8)
        assert row["quality"] == pytest.approx((4 * 0.55 + 0.51) / 5)
        assert row["weight"] == pytest.approx(5)
        assert 0 <= row["low"] < 0.8 < row["high"] <= 1

    def test_the_outcome_decided_about_verified_rollouts_so_each_counts_once(self, plain_run):
        """The rows of an oracle run: ``keep`` is False where the outcome dropped a rollout, which has its reward."""
        rows = (
            rollout(0.55, 1.0, 0.25, reason="outcome"),
            rollout(0.55, 0.0, 0.75, keep=False, reason="outcome"),
        )
        (row,) = reliability_table([plain_run(rule="oracle", rollouts=rows)])
        assert row["right"] == pytest.approx(0.5)
        assert row["weight"] == pytest.approx(2)

    def test_ends_fall_into_the_outer_bins_and_empty_bins_are_left_out(self, plain_run):
        rows = (rollout(0.0, 0.0), rollout(1.0, 1.0))
        table = reliability_table([plain_run(rollouts=rows)])
        assert [(row["quality"], row["right"]) for row in table] == [(0, 0), (1, 1)]

    def test_success_counts_where_a_record_has_it_and_an_unknown_one_is_left_out(self, plain_run):
        rows = [rollout(0.55, reward, 1.0) for reward in (5.0, 0.2, 3.0)]
        rows = tuple(replace(row, success=success) for row, success in zip(rows, (0.0, 1.0, math.nan), strict=True))
        (found,) = reliability_table([plain_run(rollouts=rows)])
        assert (found["right"], found["weight"]) == (0.5, 2.0)

    def test_an_unknown_success_is_left_out_as_it_is_read_back(self, plain_run):
        run = plain_run(rollouts=(rollout(0.55, 5.0, 1.0), replace(rollout(0.55, 5.0, 1.0), success=0.0)))
        run = replace(run, run=replace(run.run, config={**run.run.config, "task": {"reward": ["mine:score"]}}))
        (found,) = reliability_table([run])
        assert (found["right"], found["weight"]) == (0.0, 1.0)

    def test_nothing_scored(self, plain_run):
        assert reliability_table([plain_run(rollouts=(rollout(math.nan), rollout(0.5, None)))]) == []

    def test_warmup_is_left_out_unless_it_is_all_there_is(self, plain_run):
        run = plain_run(seconds=(1, 1, 1), warmup=2, rollouts=(rollout(0.2, step=1), rollout(0.8, step=3)))
        assert [step.step for step in after_warmup(run)] == [3]
        assert len(reliability_table([run])) == 1
        assert len(after_warmup(plain_run(seconds=(1, 1), warmup=9))) == 2

    @pytest.mark.parametrize(
        ("reason", "expected"), [("draw", True), ("floor", True), ("deadline", True), ("", False), ("warmup", False)]
    )
    def test_who_was_at_risk(self, reason, expected):
        assert was_at_risk(rollout(reason=reason)) is expected


def test_phase_means_leave_a_rest(plain_run):
    metrics = {"time/generate_s": (1, 3), "time/learn_s": (0.5, 0.5)}
    means = phase_means([plain_run(seconds=(2, 4), metrics=metrics)])
    assert means == {"generate": 2.0, "verify": 0.0, "estimate": 0.0, "learn": 0.5, "other": 0.5}
    assert sum(phase_means([plain_run()]).values()) == 0
