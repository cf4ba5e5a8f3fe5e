"""Draws: marginals, counts, keys."""

import numpy as np
import pytest

from arrol.pruning.draws import bernoulli, joint_survival, joint_systematic, systematic
from arrol.types import PruningDecision, Reason, RolloutId

SURVIVAL = np.array([0.1, 0.35, 0.8, 1.0, 0.6, 0.9])
COUNT = 4000


def three_errors(survival):
    return 4.5 * np.sqrt(survival * (1 - survival) / COUNT) + 1e-12


def test_systematic_marginals_are_the_survivals():
    """Six probabilities of sum 3.75: 3 kept in a quarter of the draws, 4 in the others."""
    kept = np.array([systematic(SURVIVAL, [seed]) for seed in range(COUNT)])
    assert (np.abs(kept.mean(0) - SURVIVAL) < three_errors(SURVIVAL)).all()
    counts = kept.sum(1)
    assert set(counts) == {3, 4}
    assert abs((counts == 4).mean() - 0.75) < 0.04


def test_systematic_pairs_are_all_possible():
    """The permutation makes every pair of equals possible; without it neighbours would exclude each other."""
    pairs = {tuple(np.flatnonzero(systematic(np.full(4, 0.5), [seed]))) for seed in range(200)}
    assert len(pairs) == 6


@pytest.mark.parametrize("survival", [SURVIVAL, np.full(6, 0.55), np.array([0.3, 0.7, 0.2, 0.8])])
def test_pairs_survive_together_as_often_as_their_joint_survival_says(survival):
    kept = np.array([systematic(survival, [seed]) for seed in range(COUNT)], float)
    seen, joint = kept.T @ kept / COUNT, joint_systematic(survival)
    pairs = np.triu_indices(len(survival), 1)
    assert (np.abs(seen - joint)[pairs] < 0.04).all()
    independent = np.outer(survival, survival)
    assert np.abs(seen - independent)[pairs].sum() > 2 * np.abs(seen - joint)[pairs].sum()
    np.testing.assert_allclose(joint, joint.T, atol=1e-12)


def test_a_draws_joint_survival_is_exact_between_equals_and_the_product_where_at_most_one_is_drawn():
    pairs = np.triu_indices(8, 1)
    np.testing.assert_allclose(joint_systematic(np.full(8, 0.5))[pairs], 0.5 * 3 / 7)
    np.testing.assert_allclose(joint_systematic(np.full(8, 0.125))[pairs], 0.1 / 64)  # none: held above 0
    for survival in (np.ones(8), np.array([0.5, 1.0, 1.0])):
        np.testing.assert_array_equal(joint_systematic(survival), np.outer(survival, survival))
    many = joint_systematic(np.linspace(0.2, 0.8, 200))
    assert many.shape == (200, 200)
    assert ((many > 0) & (many <= 1)).all()


def decided(index, *draws):
    """The last of a rollout's decisions; ``draws``: (probe, probability of passing it, pool)."""
    decision, survival = None, 1.0
    for probe, factor, pool in draws:
        survival *= factor
        decision = PruningDecision(
            RolloutId(1, 0, index), probe, True, survival, Reason.DRAW, previous=decision, pool=pool
        )
    return decision


def test_the_chances_of_several_draws_multiply():
    """Two probes; rollouts 0 to 3 are the first wave, 4 to 6 the second, of which 6 was drawn alone, 7 not at all."""
    first, second = np.array([0.5, 0.8, 0.3, 0.4]), np.array([0.9, 0.6])
    decisions = [decided(index, (0, first[index], 0)) for index in range(4)]
    decisions[1], decisions[3] = decided(1, (0, 0.8, 0), (1, 0.7, 1)), decided(3, (0, 0.4, 0), (1, 0.7, 1))
    decisions += [decided(4, (0, 0.9, 4)), decided(5, (0, 0.6, 4)), decided(6, (0, 0.5, None)), None]
    joint = joint_survival(decisions)
    want = np.ones((8, 8))
    want[:4, :4], want[4:6, 4:6] = joint_systematic(first), joint_systematic(second)
    alone = np.array([*first, *second, 0.5, 1.0])
    want = np.where(want == 1, np.outer(alone, alone), want)
    later = np.array([1, 0.7, 1, 0.7, 1, 1, 1, 1])
    want *= np.outer(later, later)
    want[1, 3] = want[3, 1] = joint_systematic(first)[1, 3] * joint_systematic(np.full(2, 0.7))[0, 1]
    pairs = np.triu_indices(8, 1)
    np.testing.assert_allclose(joint[pairs], want[pairs], rtol=1e-12)


def test_draws_that_are_alone_need_no_joint_survival():
    assert joint_survival([decided(0, (0, 0.5, None)), decided(1, (0, 0.5, None)), None]) is None


@pytest.mark.parametrize("survival", [np.full(10, 0.3), np.full(3, 1 / 3), np.full(7, 3 / 7), np.full(16, 0.5)])
def test_a_whole_sum_is_kept_exactly(survival):
    for seed in range(300):
        assert systematic(survival, [seed]).sum() == round(survival.sum())


def test_certainty_and_impossibility():
    kept = [systematic(np.array([1.0, 0.0, 1.0, 0.5]), [seed]) for seed in range(100)]
    assert all(k[0] and k[2] and not k[1] for k in kept)
    assert {bool(k[3]) for k in kept} == {True, False}
    assert systematic(np.zeros(3), [1]).sum() == 0
    assert systematic(np.ones(3), [1]).sum() == 3
    assert systematic(np.zeros(0), [1]).shape == (0,)


def test_bernoulli_marginals_and_independence():
    ids = [RolloutId(1, 0, index) for index in range(6)]
    kept = np.array([bernoulli(SURVIVAL, ids, seed=seed, probe=0) for seed in range(COUNT)])
    assert (np.abs(kept.mean(0) - SURVIVAL) < three_errors(SURVIVAL)).all()
    assert abs(np.corrcoef(kept[:, 1], kept[:, 4])[0, 1]) < 0.07
    assert kept.sum(1).min() < 3  # the number kept varies


def test_bernoulli_is_keyed_by_the_rollout_alone():
    ids = [RolloutId(2, g, i) for g in range(3) for i in range(4)]
    survival = np.full(12, 0.5)
    together = bernoulli(survival, ids, seed=9, probe=0)
    alone = [bool(bernoulli(survival[:1], [rollout_id], seed=9, probe=0)[0]) for rollout_id in ids]
    backwards = bernoulli(survival, ids[::-1], seed=9, probe=0)[::-1]
    assert together.tolist() == alone == backwards.tolist()
    assert bernoulli(np.zeros(0), [], seed=0, probe=0).shape == (0,)


def test_every_part_of_the_key_matters():
    ids = [RolloutId(1, 0, index) for index in range(64)]
    half = np.full(64, 0.5)
    draws = [
        bernoulli(half, ids, seed=0, probe=0),
        bernoulli(half, ids, seed=1, probe=0),
        bernoulli(half, ids, seed=0, probe=1),
        bernoulli(half, [i._replace(step=2) for i in ids], seed=0, probe=0),
        bernoulli(half, [i._replace(group=1) for i in ids], seed=0, probe=0),
    ]
    assert len({tuple(d) for d in draws}) == 5
    keys = ([0, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0, 2, 1, 0, 0], [0, 1, 2, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 0, 1])
    assert len({tuple(systematic(half, key)) for key in keys}) == 6
    assert tuple(systematic(half, keys[0])) == tuple(systematic(half, list(keys[0])))
