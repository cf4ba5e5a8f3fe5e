"""Scores of the host, of features, or none; and one call of the estimator per probe."""

import math

import numpy as np

from arrol.quality.scoring import scores_and_qualities
from arrol.types import ProbeEvent, RolloutId


class Recording:
    """An estimator whose score is the first feature plus the probe, and whose quality is a tenth of the score."""

    version = 0

    def __init__(self):
        self.calls = []

    def scores(self, features_CF, probe):
        self.calls.append(("scores", probe, len(features_CF)))
        return features_CF[:, 0] + probe

    def quality(self, score_C, probe):
        self.calls.append(("quality", probe, len(score_C)))
        return score_C / 10


def event(index, probe=0, feature=None, score=None):
    return ProbeEvent(RolloutId(1, 0, index), probe, None if feature is None else np.array([feature]), score)


def test_a_score_stands_before_features_and_nothing_gives_nan():
    events = [event(0, feature=2.0), event(1, score=5.0), event(2), event(3, feature=9.0, score=math.nan)]
    estimator = Recording()
    score_C, quality_C = scores_and_qualities(events, estimator)
    np.testing.assert_array_equal(score_C, [2.0, 5.0, np.nan, np.nan])
    np.testing.assert_array_equal(quality_C, [0.2, 0.5, np.nan, np.nan])
    assert estimator.calls == [("scores", 0, 1), ("quality", 0, 2)]


def test_one_call_per_probe_in_the_order_of_the_events():
    events = [event(0, 1, 2.0), event(1, 0, 3.0), event(2, 1, 4.0)]
    estimator = Recording()
    score_C, quality_C = scores_and_qualities(events, estimator)
    np.testing.assert_array_equal(score_C, [3.0, 3.0, 5.0])
    np.testing.assert_allclose(quality_C, [0.3, 0.3, 0.5])
    assert estimator.calls == [("scores", 0, 1), ("quality", 0, 1), ("scores", 1, 2), ("quality", 1, 2)]


def test_no_event_asks_nothing():
    estimator = Recording()
    assert [len(values) for values in scores_and_qualities([], estimator)] == [0, 0]
    assert estimator.calls == []
