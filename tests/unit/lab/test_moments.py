"""The closed form against enumeration of all groups."""

from itertools import product

import numpy as np
import pytest

from arrol.lab.moments import Moments, expected_counts, group_counts, longest_mean, merit
from arrol.lab.pool import Pool
from lab.conftest import make_pool


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_error_of_a_whole_group_is_that_of_all_groups_that_can_be_drawn(size):
    pool = make_pool(prompts=2, rollouts=5)
    moments = Moments.of(pool)
    for p in range(2):
        reward, sketch, errors = pool.reward_PN[p].astype(float), pool.sketch_PND[p].astype(float), []
        for rows in product(range(5), repeat=size):
            rows = list(rows)
            covariance = (reward[rows] - reward[rows].mean()) @ sketch[rows] / (size - 1)
            errors.append(((covariance - moments.gradient_PD[p]) ** 2).sum())
        np.testing.assert_allclose(moments.error_P(size)[p], np.mean(errors), rtol=1e-9)


def test_a_group_of_one_says_nothing(pool):
    moments = Moments.of(pool)
    np.testing.assert_allclose(moments.error_P(1), (moments.gradient_PD**2).sum(1))


def test_counts_of_whole_groups_are_those_of_all_groups_that_can_be_drawn():
    pool = make_pool(prompts=2, rollouts=4)
    generated_P, trained_P, _ = expected_counts(pool, 3, 1)
    for p in range(2):
        generated, trained = [], []
        for rows in product(range(4), repeat=3):
            rows = list(rows)
            generated.append(pool.length_PN[p, rows].sum())
            trained.append(generated[-1] if len(set(pool.reward_PN[p, rows])) > 1 else 0)
        np.testing.assert_allclose([generated_P[p], trained_P[p]], [np.mean(generated), np.mean(trained)])


def test_the_longest_rollout_of_a_step_sets_its_decode_steps():
    pool = Pool(("a", "b"), np.zeros((2, 2)), np.array([[1, 3], [2, 2]]))
    # One prompt, groups of two: lengths (1,1) (1,3) (3,1) (3,3) of a, always 2 of b.
    assert longest_mean(pool, np.array([2, 2]), 1) == pytest.approx((1 / 4 * 1 + 3 / 4 * 3 + 2) / 2)


def test_steps_of_small_groups_hold_as_many_rollouts(pool):
    small, large = group_counts(pool, 2, rows=12), group_counts(pool, 12, rows=12)
    assert float(small.decode_steps) * 6 == pytest.approx(float(large.decode_steps), rel=0.2)


def test_spread_between_prompts_has_the_pools_noise_taken_off():
    rng = np.random.default_rng(0)
    prompts, rollouts, size = 400, 24, 4
    reward = (rng.random((prompts, rollouts)) < 0.5).astype(np.float32)
    direction = rng.normal(size=(prompts, 1, size)) * 0.5
    sketch = ((2 * reward - 1)[..., None] * direction + rng.normal(size=(prompts, rollouts, size))).astype(np.float32)
    pool = Pool(tuple(map(str, range(prompts))), reward, np.ones((prompts, rollouts), np.int32), sketch_PND=sketch)
    moments = Moments.of(pool)
    true = (2 * 0.25) ** 2 * 0.25 * size  # g = Cov(r, S) = 2 p (1-p) direction, direction of variance .25 a number
    assert moments.between == pytest.approx(true, rel=0.15)
    assert moments.ratio == pytest.approx(np.sqrt(moments.within / moments.between))


def test_merit_falls_with_error_and_cost():
    assert merit(1.0, 3.0, 2.0) == pytest.approx(1 / 8)
