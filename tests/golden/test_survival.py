"""Survival beside its derivation by hand: worked example and table of shares of the method notes, section 6.3."""

import json
from pathlib import Path

import numpy as np
import pytest

from arrol.configs.method import BalancedRule, NeymanRule, PaperRule, UniformRule
from arrol.pruning.survival import RULES, Candidates
from arrol.stats import incomplete_beta

GOLDEN = json.loads((Path(__file__).parent / "survival.json").read_text())
CONFIGS = {"paper": PaperRule, "balanced": BalancedRule, "neyman": NeymanRule, "uniform": UniformRule}
QUALITY = np.array(GOLDEN["quality"])


def survival_of(rule, quality, **config):
    """The group is also the buffer."""
    return RULES[rule](Candidates(quality, np.zeros(len(quality), int)), CONFIGS[rule](**config), 0.5)


def share(quality, survival):
    """Expected share of right rollouts among the survivors."""
    return float((quality * survival).sum() / survival.sum())


def beta_quantiles(a, b, count):
    """Midpoint quantiles, by inverting the exact distribution function on a grid that is dense at both ends."""
    grid = np.sin(np.linspace(0.0, np.pi / 2, 3000)) ** 2
    reached = [incomplete_beta(a, b, float(min(x, 1.0))) for x in grid]
    return np.interp((np.arange(count) + 0.5) / count, reached, grid)


def test_moments():
    assert QUALITY.mean() == pytest.approx(GOLDEN["mean"], abs=1e-12)
    assert QUALITY.var() == pytest.approx(GOLDEN["variance"], abs=1e-12)


@pytest.mark.parametrize("case", GOLDEN["worked"], ids=lambda case: case["rule"])
def test_worked_example(case):
    survival = survival_of(case["rule"], QUALITY, **case["config"])
    np.testing.assert_allclose(survival, case["survival"], atol=6e-5)
    assert share(QUALITY, survival) == pytest.approx(case["share"], abs=6e-5)


def test_neyman_mirrors():
    survival = survival_of("neyman", 1 - QUALITY)
    np.testing.assert_allclose(survival, survival_of("neyman", QUALITY), atol=1e-9)
    assert share(1 - QUALITY, survival) == pytest.approx(0.6254, abs=6e-5)


@pytest.mark.parametrize("place", range(5))
def test_shares_on_simulated_quality(place):
    table = GOLDEN["table"]
    base = table["base"][place]
    quality = beta_quantiles(2 * base, 2 - 2 * base, 4000)
    assert quality.mean() == pytest.approx(base, abs=1e-3)
    found = {rule: share(quality, survival_of(rule, quality)) for rule in table["share"]}
    expected = {rule: shares[place] for rule, shares in table["share"].items()}
    assert found == pytest.approx(expected, abs=table["tolerance"])
    for target in (0.3, 0.7):
        paper = survival_of("paper", quality, target_positive_ratio=target)
        assert share(quality, paper) == pytest.approx(found["paper"], abs=1e-6)
