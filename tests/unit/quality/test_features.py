"""Order and size of what the head reads."""

import doctest

import numpy as np
import pytest

import arrol.quality.features
from arrol.quality.features import FeatureLayout

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
