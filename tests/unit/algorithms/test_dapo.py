"""The overlong penalty of DAPO, by hand: limit 20, buffer 8, so it grows from 12 tokens on."""

import numpy as np
import pytest

from arrol.algorithms.dapo import overlong_penalty


def test_penalty_grows_linearly_over_the_buffer():
    tokens = np.array([1, 12, 13, 14, 16, 20])
    np.testing.assert_allclose(overlong_penalty(tokens, 20, 8, 1.0), [0, 0, 0.125, 0.25, 0.5, 1])
    np.testing.assert_allclose(overlong_penalty(tokens, 20, 8, 0.4), [0, 0, 0.05, 0.1, 0.2, 0.4])


def test_it_never_leaves_its_bounds():
    assert overlong_penalty(np.array([0, 50]), 20, 8, 2.0).tolist() == [0.0, 2.0]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_no_buffer_is_no_penalty(penalty):
    assert overlong_penalty(np.array([1, 20]), 20, 0, penalty).tolist() == [0.0, 0.0]
