"""Cost models: prices, names, refusals."""

import numpy as np
import pytest

from arrol.errors import ConfigError
from arrol.lab.costs import Counts, cost_model
from arrol.lab.pool import Pool


@pytest.mark.parametrize(("name", "cost"), [("flops", 2 * 5 + 2 * 3 + 6 * 2), ("4:3", 4 * 5 + 3 + 3 * 2)])
def test_tokens_have_their_price(pool, name, cost):
    assert cost_model(name, pool).cost(Counts(5, 7, 3, 2)) == pytest.approx(cost)


def test_a_decode_step_costs_itself_and_its_rows(pool):
    model = cost_model("7b", pool)
    assert model.is_seconds
    assert model.cost(Counts(320, 10, 0, 0)) == pytest.approx(10 * 10.8e-3 + 320 * 0.19e-3)


def test_measured_seconds_are_those_of_the_pool(pool):
    tokens = pool.length_PN.sum()
    model = cost_model("measured", pool)
    np.testing.assert_allclose(model.cost(Counts(tokens, 0, 0, tokens)), 8.0)


@pytest.mark.parametrize("name", ["", "gpu", "4", "4:", "a:b", "-1:2", "0:0", "inf:1", "nan:1"])
def test_unknown_models_are_named(pool, name):
    with pytest.raises(ConfigError, match=r"cost = .*: unknown; give flops, measured, 1.3b, 7b, 13b, or"):
        cost_model(name, pool)


def test_a_pool_without_times_has_no_measured_cost():
    pool = Pool(("a",), np.ones((1, 2)), np.ones((1, 2), int))
    with pytest.raises(ConfigError, match="cost = 'measured': the pool has no times"):
        cost_model("measured", pool)
