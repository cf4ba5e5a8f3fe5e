"""Noise and cost of survivals that were not used, beside simulations."""

import numpy as np
import pytest

from arrol.algorithms.advantages import group_signal
from arrol.configs.method import DrGrpoConfig
from arrol.pruning.outlook import Past, Prices, costs, decode_steps, outlook, step_shares

TOKENS = Prices(1.0, 0.0, 0.0)


def past_of(advantage_N, tokens_N=None, groups=1, steps=1):
    """Rollouts in equal groups, and groups in equal steps."""
    count = len(advantage_N)
    group_N = np.repeat(np.arange(groups), count // groups)
    tokens_N = np.full(count, 10.0) if tokens_N is None else np.asarray(tokens_N, float)
    return Past(
        group_N * steps // groups, group_N, np.ones(count), np.asarray(advantage_N, float), np.ones(count), tokens_N
    )


def test_the_noise_of_random_stops_is_what_ipw_gives():
    """Sum of (advantage x weight)^2 over draws of groups, baseline included, as training computes it."""
    rng, config = np.random.default_rng(0), DrGrpoConfig(correction="ipw")
    whole, known = np.ones(16), np.full(16, 0.3)
    predicted, realised, full = 0.0, 0.0, 0.0
    for _ in range(60):
        reward = (rng.random(16) < 0.3).astype(float)
        advantage = group_signal(reward, whole, known, config, normalize_by_std=False).advantage_G
        full += float((advantage**2).sum())
        predicted += outlook(past_of(advantage), np.full(16, 0.5), 1.0, TOKENS, 0.0).noise_M[0]
        for _ in range(50):
            kept = rng.random(16) < 0.5
            given = np.where(kept, reward, np.nan)
            signal = group_signal(given, np.full(16, 0.5), known, config, normalize_by_std=False)
            realised += float(((signal.advantage_G * signal.weight_G) ** 2).sum()) / 50
    assert realised > 2 * full
    assert predicted == pytest.approx(realised, rel=0.05)


def test_survivors_below_the_mean_train_where_one_above_it_survived():
    """Two right, two wrong, each kept with probability .5: a wrong one trains in .5 x .75 of the cases."""
    prices = Prices(0.0, 1.0, 0.0)
    cost = outlook(past_of([0.5, 0.5, -0.5, -0.5]), np.full(4, 0.5), 1.0, prices, 0.0).cost_M
    np.testing.assert_allclose(cost, [10 * (2 * 0.5 + 2 * 0.5 * 0.75)])
    assert outlook(past_of([0.0] * 4), np.full(4, 0.5), 1.0, prices, 0.0).cost_M == 0


def test_a_lottery_trades_training_for_noise():
    """Contributions 1 and .1 of root mean square .71: under a share of 1 they train always and in .14 of the cases.

    As in training, rollouts without an advantage have no part in the root mean square.
    """
    past, prices = past_of([1.0, -0.1, 0.0]), Prices(0.0, 1.0, 0.0)
    plain, thinned = (outlook(past, np.ones(3), 1.0, prices, share) for share in (0.0, 1.0))
    rms = np.sqrt((1 + 0.01) / 2)
    np.testing.assert_allclose(plain.noise_M, 1.01)
    np.testing.assert_allclose(thinned.noise_M, 1 + 0.01 / (0.1 / rms))
    np.testing.assert_allclose(thinned.cost_M, 10 * (1 + 0.1 / rms))


def test_decode_steps_are_those_of_the_longest_survivor():
    tokens, survival = np.array([5.0, 30.0, 20.0, 80.0]), np.array([1.0, 0.3, 0.6, 0.5])
    alive = np.random.default_rng(0).random((200_000, 4)) < survival
    realised = np.where(alive, tokens, np.minimum(tokens, 10)).max(1).mean()
    assert decode_steps(tokens, survival, np.ones(4), 10.0) == pytest.approx(realised, rel=0.01)
    assert decode_steps(tokens, np.ones(4), np.ones(4), 10.0) == 80.0


def test_the_groups_of_a_step_share_its_decode_steps():
    past = past_of(np.zeros(8), [3, 9, 9, 40, 1, 1, 1, 100], groups=4, steps=2)
    cost_M = outlook(past, np.ones(8), 0.0, Prices(0.0, 0.0, 2.0), 0.0).cost_M
    np.testing.assert_allclose(cost_M, [40, 40, 100, 100])
    for until, expected in ((np.inf, 140), (9.0, 18)):
        assert step_shares(past, until).sum() == pytest.approx(expected)


def test_what_a_rollout_costs_before_and_after_a_length():
    past = past_of([0.5, -0.5, 0.0], [10, 30, 30])
    before_N, after_N = costs(past, 20.0, Prices(2.0, 6.0, 0.0))
    np.testing.assert_allclose(before_N, [20, 40, 40])
    np.testing.assert_allclose(after_N, [60, 20 + 180, 20])
    before_N, after_N = costs(past, 20.0, Prices(0.0, 0.0, 1.0))
    np.testing.assert_allclose(before_N, [10 / 3, 10 / 3 + 5, 10 / 3 + 5])
    np.testing.assert_allclose(after_N, [0, 5, 5])
