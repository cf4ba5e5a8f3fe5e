"""Posteriors beside their derivation by hand, through the whole calibration: records in, quality out."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from arrol.configs.method import QualityConfig
from arrol.quality.calibration import Calibration

GOLDEN = json.loads((Path(__file__).parent / "posterior.json").read_text())


def records(case):
    """One record per count, its score in the middle of its bin."""
    num_bins, scores, labels = len(case["right"]), [], []
    for b in range(num_bins):
        middle = (b + 0.5) / num_bins
        for label, counts in ((1.0, case["right"]), (0.0, case["wrong"])):
            scores += [np.log(middle / (1 - middle))] * counts[b]
            labels += [label] * counts[b]
    return np.array(scores), np.array(labels)


@pytest.mark.parametrize("rule", ["binned", "shrunk"])
@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_posterior(case, rule):
    num_bins = len(case["right"])
    config = QualityConfig(calibration=rule, num_bins=num_bins, pseudo_count=case["pseudo_count"], min_class_records=1)
    calibration = Calibration(config)
    score_N, label_N = records(case)
    calibration.refit(score_N, label_N, np.ones(len(label_N)))
    middles = (np.arange(num_bins) + 0.5) / num_bins
    quality = calibration.quality(np.log(middles / (1 - middles)))
    np.testing.assert_allclose(quality, [float(Fraction(q)) for q in case[rule]], atol=1e-12)
    assert calibration.prior == pytest.approx(float(Fraction(case["prior"])))
