"""Order and size of what the head reads."""

import doctest

import numpy as np
import pytest

import arrol.quality.features
from arrol.quality.features import FeatureLayout, logprob_statistics

LAST, MEAN = np.array([[1.0, 2], [3, 4]]), np.array([[5.0, 6], [7, 8]])
LOGPROBS = np.array([[-3.0, -2, -1], [-6, -5, -4]])


def test_docstring_examples():
    assert doctest.testmod(arrol.quality.features).failed == 0


@pytest.mark.parametrize(
    ("names", "first_row"),
    [
        (("last_hidden", "mean_hidden", "logprobs"), [1, 2, 5, 6, -3, -2, -1]),
        (("logprobs", "last_hidden"), [-3, -2, -1, 1, 2]),
        (("mean_hidden",), [5, 6]),
    ],
)
def test_the_layout_names_the_order(names, first_row):
    layout = FeatureLayout(names, 2)
    features = layout.assemble(LAST, MEAN, LOGPROBS)
    assert features.dtype == np.float32
    assert features.shape == (2, layout.num_features)
    assert features[0].tolist() == first_row


def test_statistics_read_the_first_tokens_of_each_row():
    rows = np.array([[-1.0, -3.0, np.nan], [-2.0, -0.5, -0.5], [-1.0, np.nan, -1.0], [-1.0, -1.0, -1.0]])
    found = logprob_statistics(rows, np.array([2, 3, 3, 0]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[-4, -3, -2], [-3, -2, -1], [np.nan] * 3, [np.nan] * 3])
    np.testing.assert_array_equal(logprob_statistics(rows[1:2]), [[-3, -2, -1]])
    assert np.isnan(logprob_statistics(np.zeros((1, 0)))).all()


def test_padding_changes_no_statistic():
    rows = np.random.default_rng(0).normal(-1, 1, (4, 999)).astype(np.float32)
    padded = np.pad(rows, ((0, 0), (0, 333)))
    np.testing.assert_array_equal(logprob_statistics(padded, np.full(4, 999)), logprob_statistics(rows))
