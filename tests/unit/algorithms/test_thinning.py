"""The lottery between reward and update: who takes part, what it keeps, what it must not change."""

import numpy as np
import pytest

from arrol.algorithms.thinning import thinned, training_probability
from arrol.types import RolloutId

CONTRIBUTION = np.array([0.9, -0.9, 0.1, -0.05, 0.0, 0.4])
IDS = [RolloutId(3, index % 2, index) for index in range(6)]


def test_only_small_contributions_take_part():
    threshold = 0.5 * np.sqrt(np.mean(CONTRIBUTION**2))
    probability = training_probability(CONTRIBUTION, 0.5)
    np.testing.assert_allclose(probability, np.minimum(1.0, np.abs(CONTRIBUTION) / threshold))
    assert probability[[0, 1, 5]].tolist() == [1.0, 1.0, 1.0]
    assert probability[4] == 0.0


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_contributions_of_one_size_all_train(share):
    assert thinned(np.array([0.5, -0.5, 0.5]), IDS[:3], share, seed=0).tolist() == [1.0, 1.0, 1.0]


def test_zero_trains_all_and_nothing_is_fine():
    assert thinned(CONTRIBUTION, IDS, 0.0, seed=0).tolist() == [1.0] * 6
    assert thinned(np.zeros(3), IDS[:3], 0.5, seed=0).tolist() == [1.0] * 3
    assert thinned(np.zeros(0), [], 0.5, seed=0).tolist() == []


def test_the_expected_contribution_is_unchanged():
    draws = np.array([thinned(CONTRIBUTION, IDS, 0.9, seed=seed) for seed in range(4000)])
    probability = training_probability(CONTRIBUTION, 0.9)
    spread = np.sqrt((1 / np.maximum(probability, 1e-9) - 1) / 4000)
    kept = probability > 0
    assert (np.abs(draws.mean(0) - 1)[kept] < 4.5 * spread[kept] + 1e-12).all()
    assert set(np.unique(draws[:, 2]).round(9)) == {0.0, round(1 / probability[2], 9)}


def test_a_draw_depends_on_its_id_and_the_step_alone():
    order = [4, 2, 0, 5, 1, 3]
    plain = thinned(CONTRIBUTION, IDS, 0.9, seed=7)
    np.testing.assert_array_equal(plain[order], thinned(CONTRIBUTION[order], [IDS[i] for i in order], 0.9, seed=7))
    others = [thinned(CONTRIBUTION, [RolloutId(s, *i[1:]) for i in IDS], 0.9, seed=7) for s in range(20)]
    assert len({tuple(other) for other in others}) > 1
