"""Arms at equal cost, on curves small enough to check by hand."""

import math

import numpy as np
import pytest

from arrol.reports.costs import accuracy_at, cost_to_final, equal_cost
from arrol.reports.curves import eval_curve


@pytest.fixture
def costly_run(plain_run):
    """A run that is evaluated after every step; ``flops`` is the cost of each."""

    def make(arm, seed, flops, accuracies, **options):
        rule = "never" if arm == "grpo" else "paper"
        evals = dict(enumerate(accuracies))
        return plain_run(arm, seed, rule=rule, accuracies=evals, metrics={"compute/flops": flops}, **options)

    return make


@pytest.fixture
def runs(costly_run):
    """The arm learns as the first does at 60% of the cost, its second seed less well."""
    return [
        costly_run("grpo", 0, (10, 10), (0.1, 0.3, 0.5)),
        costly_run("grpo", 1, (20, 20), (0.1, 0.3, 0.5)),
        costly_run("x", 0, (6, 6), (0.1, 0.3, 0.5)),
        costly_run("x", 1, (12, 12), (0.1, 0.3, 0.4)),
    ]


def point(runs, arm, share):
    (found,) = (row for row in equal_cost(runs, "flops_E", [share]) if row.arm == arm)
    return found


def test_accuracy_is_interpolated_and_never_extrapolated(costly_run):
    curve = eval_curve(costly_run("grpo", 0, (10, 10), (0.1, 0.3, 0.5)))
    assert [accuracy_at(curve, "flops_E", budget) for budget in (0, 5, 15, 20, 99)] == pytest.approx(
        [0.1, 0.2, 0.4, 0.5, 0.5]
    )


def test_before_the_first_evaluation_nothing_is_known(plain_run):
    late = plain_run(accuracies={2: 0.3, 3: 0.4}, metrics={"compute/flops": (10, 10, 10)})
    assert math.isnan(accuracy_at(eval_curve(late), "flops_E", 19))
    assert [row.share for row in equal_cost([late], "flops_E", (0.5, 1.0))] == [1.0]


class TestEqualCost:
    def test_budgets_are_shares_of_the_first_arms_run_of_that_seed(self, runs):
        # Half of 20 is 10: 0.3 + 0.2 * 4 / 6 for seed 0; half of 40 is 20: 0.3 + 0.1 * 8 / 12 for seed 1.
        half = point(runs, "x", 0.5)
        gaps = [0.2 * 4 / 6, 0.1 * 8 / 12]
        assert half.accuracy == pytest.approx(0.3 + np.mean(gaps))
        assert half.ahead == pytest.approx(np.mean(gaps))
        # t(0.975, 1) = 12.7062, standard error |a - b| / 2.
        assert half.high - half.ahead == pytest.approx(12.7062 * abs(gaps[0] - gaps[1]) / 2, rel=1e-4)
        assert (half.share, half.seeds, half.ended) == (0.5, 2, 0)

    def test_who_ended_counts_with_the_last_accuracy_and_is_counted(self, runs):
        whole = point(runs, "x", 1.0)
        assert (whole.accuracy, whole.ahead, whole.ended) == (pytest.approx(0.45), pytest.approx(-0.05), 2)

    def test_as_far_as_both_went(self, runs):
        # 60% of the first arm's cost: it stood at 0.3 + 0.2 * 2 / 10 = 0.34 there.
        both = point(runs, "x", None)
        assert (both.share, both.accuracy, both.ahead) == pytest.approx((0.6, 0.45, 0.11))
        assert both.ended == 0

    def test_what_was_learnt_beyond_the_budget_does_not_count(self, costly_run):
        base = costly_run("grpo", 0, (10,), (0.1, 0.5))
        dear = costly_run("x", 0, (20, 20), (0.1, 0.3, 0.9))
        assert point([base, dear], "x", 1.0).ahead == pytest.approx(0.2 - 0.5)
        assert point([base, dear], "x", None).share == 1.0

    def test_the_first_arm_beside_itself(self, runs):
        rows = [row for row in equal_cost(runs, "flops_E") if row.arm == "grpo"]
        assert [row.accuracy for row in rows] == pytest.approx([0.2, 0.3, 0.5])
        assert {(row.ahead, row.low, row.high, row.ended) for row in rows} == {(0, 0, 0, 0)}

    def test_one_seed_has_no_interval(self, runs):
        assert math.isnan(point([runs[0], runs[2]], "x", 0.5).low)

    def test_only_shared_seeds_with_known_costs_are_pairs(self, runs, costly_run, plain_run):
        strangers = [costly_run("x", 7, (1,), (0.1, 0.9)), plain_run("y", rule="paper", accuracies={0: 0.1, 1: 0.9})]
        assert equal_cost([*runs, *strangers], "flops_E") == equal_cost(runs, "flops_E")
        assert equal_cost(runs, "train_s_E") == []
        assert equal_cost([], "flops_E") == []


class TestCostToFinal:
    def test_crossing_of_the_mean_curve(self, costly_run):
        # The first arm ends at 0.5 for 20 on average; the arm's mean curve passes it half way between 8 and 16.
        runs = [
            costly_run("grpo", 0, (8, 8), (0.1, 0.3, 0.4)),
            costly_run("grpo", 1, (12, 12), (0.1, 0.3, 0.6)),
            costly_run("x", 0, (6, 6), (0.1, 0.4, 0.5)),
            costly_run("x", 1, (10, 10), (0.1, 0.4, 0.7)),
        ]
        first, row = cost_to_final(runs, "flops_E")
        assert (first.cost, first.share) == (20, 1)
        assert (row.arm, row.seeds, row.cost, row.share) == ("x", 2, pytest.approx(12), pytest.approx(0.6))
        # Seed 0 alone: 0.4 at 6 of 16; seed 1 alone: 0.6 two thirds between 10 and 20 of 24.
        assert (row.low, row.high) == pytest.approx((6 / 16, (10 + 10 * 2 / 3) / 24))

    def test_an_arm_that_never_arrives_is_infinite(self, runs):
        _, row = cost_to_final(runs, "flops_E")
        assert (row.cost, row.share, row.low, row.high) == (math.inf, math.inf, pytest.approx(0.6), math.inf)

    def test_a_first_arm_that_overshoots_says_so(self, costly_run):
        (row,) = cost_to_final([costly_run("grpo", 0, (10, 10), (0.1, 0.5, 0.3))], "flops_E")
        assert row.share == pytest.approx(0.25)
        assert math.isnan(row.low)

    def test_unknown_costs_have_no_row(self, runs):
        assert cost_to_final(runs, "tokens_E") == []
