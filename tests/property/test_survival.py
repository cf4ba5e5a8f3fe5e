"""What the rules promise for any qualities: the paper's target cancels, balanced reaches it, neyman stays between."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from arrol.configs.method import BalancedRule, NeymanRule, OracleRule, PaperRule, UniformRule
from arrol.pruning.survival import RULES, Candidates, lift_to_floor, oracle

seeded = settings(max_examples=60, deadline=None, derandomize=True)
qualities = st.lists(st.floats(0.0, 1.0), min_size=2, max_size=24).map(np.array)
keep_ratios = st.floats(0.2, 0.9)


def survival_of(config, quality, keep, group=None, **more):
    group = np.zeros(len(quality), int) if group is None else group
    return RULES[config.rule](Candidates(quality, group, **more), config, keep)


def share(quality, survival):
    return float((quality * survival).sum() / survival.sum())


@seeded
@given(qualities, keep_ratios, st.floats(0, 1), st.floats(0, 1))
def test_paper_ignores_its_target_when_unclipped(quality, keep, target, other):
    strength = 0.9 * min(keep - 0.01, 1 - keep) / max(np.ptp(quality), 1e-3)
    wide = {"min_survival": 0.005, "max_survival": 1.0, "balance_strength": strength}
    first = survival_of(PaperRule(target_positive_ratio=target, **wide), quality, keep)
    second = survival_of(PaperRule(target_positive_ratio=other, **wide), quality, keep)
    assert (first > 0.005).all()
    assert (first < 1).all()
    np.testing.assert_allclose(first, second, atol=1e-9)
    np.testing.assert_allclose(first, keep - strength * (quality - quality.mean()), atol=1e-9)


@seeded
@given(qualities, keep_ratios, st.floats(0.05, 0.95))
def test_balanced_reaches_its_target_when_unclipped(quality, keep, target):
    assume(quality.var() > 1e-2)
    config = BalancedRule(
        target_positive_ratio=target, min_survival=0.001, max_survival=1.0, max_balance_strength=100, shrinkage=0
    )
    survival = survival_of(config, quality, keep)
    assume(survival.min() > 0.0011)
    assume(survival.max() < 0.9999)
    assert abs(share(quality, survival) - target) < 1e-7


@seeded
@given(qualities, keep_ratios)
def test_neyman_moves_the_share_towards_one_half_and_never_past(quality, keep):
    base = quality.mean()
    assume(0.02 <= base <= 0.98)
    survival = survival_of(NeymanRule(min_survival=1e-6), quality, keep)
    assume(survival.max() < 1)
    low, high = sorted((base, 0.5))
    assert low - 1e-9 <= share(quality, survival) <= high + 1e-9


@seeded
@given(qualities, keep_ratios, st.floats(0.02, 0.98))
def test_neyman_mirrors(quality, keep, past):
    for history in (np.zeros(0), np.full(len(quality), past)):
        survival = survival_of(NeymanRule(), quality, keep, history_C=history)
        mirrored = survival_of(NeymanRule(), 1 - quality, keep, history_C=1 - history)
        np.testing.assert_allclose(survival, mirrored, atol=1e-8)


def test_neyman_reaches_one_half_when_quality_is_perfect():
    quality = np.repeat([1.0, 0.0], [4, 16])
    assert abs(share(quality, survival_of(NeymanRule(min_survival=1e-6), quality, 0.3)) - 0.5) < 1e-9


@seeded
@given(qualities, keep_ratios, st.integers(0, 2**20))
def test_the_keep_ratio_is_met_and_the_floor_holds(quality, keep, seed):
    group = np.random.default_rng(seed).integers(0, 3, len(quality))
    paper, balanced = PaperRule(max_survival=1.0), BalancedRule(max_survival=1.0, shrinkage=0)
    for config in (UniformRule(), paper, NeymanRule(scope="batch")):
        survival = survival_of(config, quality, keep, group)
        assert abs(survival.mean() - keep) < 1e-9
        assert survival.min() >= 0.1
        assert survival.max() <= 1
    for config in (NeymanRule(), balanced):
        survival = survival_of(config, quality, keep, group)
        for g in np.unique(group):
            assert abs(survival[group == g].mean() - keep) < 1e-9


@seeded
@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20).map(np.array),
    st.integers(0, 2**20),
    st.integers(1, 4),
    st.floats(0.05, 0.3),
)
def test_lifting_gives_every_group_its_floor(survival, seed, need, least):
    """Also the groups that pay for others, and groups that a rule stops whole."""
    group = np.random.default_rng(seed).integers(0, 4, len(survival))
    needed = dict.fromkeys(range(4), need)
    lifted = lift_to_floor(survival, group, needed, least)
    for g in np.unique(group):
        rows = group == g
        assert lifted[rows].sum() >= min(need, rows.sum()) - 1e-8
    assert lifted.max() <= 1
    assert (lifted >= np.minimum(survival, least) - 1e-12).all()


@seeded
@given(st.lists(st.booleans(), min_size=1, max_size=20), st.floats(0.1, 1.0), st.floats(0, 1))
def test_oracle_counts(right, keep, target):
    reward = np.array(right, float)
    survival = oracle(reward, OracleRule(target_positive_ratio=target), keep)
    count, num_right = round(keep * len(right)), sum(right)
    wanted = min(num_right, max(round(target * count), count - (len(right) - num_right)))
    assert abs(survival.sum() - count) < 1e-9
    assert abs(survival[reward > 0].sum() - wanted) < 1e-9
    assert survival.min() >= 0
    assert survival.max() <= 1
