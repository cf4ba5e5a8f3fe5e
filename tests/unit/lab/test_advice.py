"""Numbers of a workload against hand counts, enumeration and the table of docs/lab's notes."""

from itertools import combinations

import numpy as np
import pytest

from arrol.lab import advice
from arrol.lab.costs import CostModel, Counts, cost_model
from arrol.lab.moments import Moments
from arrol.lab.pool import Pool

TOKENS = CostModel("t", 1.0, 0.0, 0.0, 0.0)


def pool_of(rewards, lengths=None):
    reward_PN = np.array(rewards, float)
    length_PN = np.where(np.isnan(reward_PN), 0, 5) if lengths is None else np.array(lengths)
    return Pool(tuple(map(str, range(len(reward_PN)))), reward_PN, length_PN)


def test_prompts_are_classed_by_their_success_rate():
    rows = [[0] * 20, [1] + [0] * 19, [1] * 10 + [0] * 10, [1] * 14 + [0] * 6, [1] * 19 + [0], [1] * 20]
    shares = dict(zip(advice.RATE_LABELS, advice.difficulty(pool_of(rows)), strict=True))
    expected = {"0": 1, "<.06": 1, ".06-.3": 0, ".3-.7": 1, ".7-.94": 1, ">.94": 1, "1": 1}
    assert shares == pytest.approx({label: count / 6 for label, count in expected.items()})


def test_missing_rollouts_do_not_count():
    right_P, count_P = advice.success_rates(pool_of([[1, 0, np.nan], [np.nan, np.nan, np.nan]]))
    assert (right_P.tolist(), count_P.tolist()) == ([1], [2])


@pytest.mark.parametrize("size", [2, 3])
def test_dead_groups_are_those_of_all_subsets(size):
    rewards = [[1, 0, 0, 0, 1], [0, 0, 0.5, 0.5, 0.5]]
    shares = [np.mean([len(set(group)) == 1 for group in combinations(row, size)]) for row in rewards]
    assert advice.dead_groups(pool_of(rewards), size) == pytest.approx(np.mean(shares))


def test_dead_groups_larger_than_every_prompt_are_unknown():
    assert np.isnan(advice.dead_groups(pool_of([[1, 0]]), 4))


def test_the_tail_of_lengths_that_are_known():
    even = advice.tail(pool_of([[1, 0]], [[7, 7]]), 4, 2)
    assert even == advice.Tail(7.0, 0.0, 0.0, 0.0)
    long = advice.tail(pool_of([[1] * 20], [[10] * 19 + [100]]), 20, 1)
    assert long.mean == pytest.approx(14.5)
    assert 0.3 < long.late_share < 0.9  # the longest of 20 is drawn in two thirds of the steps


def test_live_rows_fall_with_the_lengths():
    assert advice.live_rows(pool_of([[1, 0]], [[1, 3]]), 8).tolist() == [8, 4, 4]


def test_time_shares_add_up():
    shares = advice.time_shares(CostModel("x", 1, 2, 3, 4), Counts(10, 5, 10, 10))
    assert shares == pytest.approx({"generate": 20 / 90, "score": 30 / 90, "train": 40 / 90})


@pytest.mark.parametrize(
    ("rate", "gains"),
    [
        (0.05, (1.00, 1.04, 1.12, 1.30)),
        (0.1, (1.00, 1.02, 1.08, 1.20)),
        (0.2, (1.00, 1.01, 1.03, 1.08)),
        (0.5, (1,) * 4),
    ],
)
def test_ceilings_are_those_of_the_notes(rate, gains):
    """An independent computation with the same model of scores."""
    assert [advice.ceiling(rate, auroc) for auroc in (0.6, 0.7, 0.8, 0.9)] == pytest.approx(gains, abs=0.005)


def test_a_head_that_knows_the_truth_reaches_the_limit():
    """1 / (4 p (1 - p)) with a prefix that costs nothing, but for the least survival."""
    assert advice.ceiling(0.1, 0.99999, prefix=0.0) == pytest.approx(1 / (4 * 0.1 * 0.9), rel=0.02)
    assert advice.ceiling(0.1, 0.5) == advice.ceiling(0.0, 0.9) == 1.0


def test_bounds_without_gradients_hold_both_extremes():
    pool = pool_of([[1, 0, 0, 1]])
    four, own = advice.size_bounds(pool, TOKENS, [4, 8], 8, 2)
    assert four == advice.Bounds(4, pytest.approx((3 / 4) / (7 / 8)), pytest.approx(2.0))
    assert (own.low, own.high) == (1.0, 1.0)


def test_the_measured_merit_of_a_size_lies_within_the_bounds(pool):
    from arrol.lab.moments import group_counts, merit

    moments, model = Moments.of(pool), cost_model("flops", pool)
    for bound in advice.size_bounds(pool, model, [2, 8, 16], 4, 24):
        first, second = (
            merit(moments.between, moments.error_P(size).mean(), model.cost(group_counts(pool, size, 96)))
            for size in (bound.size, 4)
        )
        assert bound.low * 0.9 <= first / second <= bound.high * 1.1  # V is not quite proportional to 1/(n-1)


def test_the_noise_interval_holds_the_ratio(pool):
    found = advice.noise(Moments.of(pool))
    assert found.low <= found.ratio <= found.high
    assert found.best_size == 1 + found.ratio


def test_the_best_probe_is_the_one_that_knows(pool):
    """At length 4 the qualities are the outcome itself, at 8 they are one number."""
    quality_PNK = pool.quality_PNK.copy()
    quality_PNK[:, :, 0] = np.where(np.isfinite(quality_PNK[:, :, 0]), 0.02 + 0.96 * pool.reward_PN, np.nan)
    quality_PNK[:, :, 1] = np.where(np.isfinite(quality_PNK[:, :, 1]), 0.5, np.nan)
    knowing = Pool(**{**vars_of(pool), "quality_PNK": quality_PNK})
    model = cost_model("flops", pool)
    assert advice.best_probe(knowing, Moments.of(pool), model, 8) == 4
    blind = Pool(**{**vars_of(pool), "quality_PNK": np.full_like(quality_PNK, np.nan)})
    assert advice.best_probe(blind, Moments.of(pool), model, 8) is None


def vars_of(pool):
    from dataclasses import fields

    return {field.name: getattr(pool, field.name) for field in fields(pool)}
