"""Rules one by one, with numbers small enough for the head; the worked example of the notes is in tests/golden."""

import doctest

import numpy as np
import pytest

import arrol.pruning.survival as survival
from arrol.configs.method import (
    BalancedRule,
    ConfidenceRule,
    ExtremesRule,
    NeverRule,
    NeymanRule,
    OracleRule,
    PaperRule,
    UniformRule,
)
from arrol.pruning.survival import RULES, Candidates, clipped_line, conditional_survival, lift_to_floor, neyman_weight


def one_group(quality, **more):
    return Candidates(np.array(quality, float), np.zeros(len(quality), int), **more)


def survive(config, candidates, keep=0.5):
    return RULES[config.rule](candidates, config, keep)


def test_docstring_examples():
    assert doctest.testmod(survival).failed == 0


def test_never_and_uniform():
    quality = one_group([0.1, 0.9])
    assert survive(NeverRule(), quality).tolist() == [1, 1]
    assert survive(UniformRule(), quality, 0.3).tolist() == [0.3, 0.3]
    assert survive(UniformRule(min_survival=0.2), quality, 0.05).tolist() == [0.2, 0.2]


def test_paper_solves_its_offset_over_the_buffer():
    """Buffer mean 0.25, slope 0.5: p = 0.5 - 0.5 (q - 0.25), so these two are not kept half of the time on average."""
    candidates = one_group([0.65, 0.85], recent_quality_B=np.array([0.1, 0.4]))
    np.testing.assert_allclose(survive(PaperRule(), candidates), [0.3, 0.2])
    np.testing.assert_allclose(survive(PaperRule(), one_group([0.65, 0.85])), [0.55, 0.45])


def test_paper_respects_its_bounds():
    quality = one_group(np.linspace(0, 1, 11))
    steep = survive(PaperRule(balance_strength=9.0, min_survival=0.2, max_survival=0.7), quality)
    assert steep.min() == pytest.approx(0.2)
    assert steep.max() == pytest.approx(0.7)
    assert steep.mean() == pytest.approx(0.5)  # six at 0.7, four at 0.2, one between


def test_balanced_group_is_pulled_to_the_buffer():
    """Two siblings, shrinkage 2: mean (0.2 + 0.6) / 2; variance (0.01 + 0.09) / 2, so slope -0.1 / 2 / 0.05 = -1."""
    buffer = np.array([0.3, 0.9])
    candidates = one_group([0.1, 0.3], recent_quality_B=buffer)
    config = BalancedRule(shrinkage=2, max_balance_strength=5)
    np.testing.assert_allclose(survive(config, candidates), [0.4, 0.6])
    alone = BalancedRule(shrinkage=0, max_balance_strength=5)
    assert np.ptp(survive(alone, candidates)) == pytest.approx(0.8)  # slope -15, clipped at both ends


def test_balanced_by_buffer_uses_its_moments_alone():
    """Slope 0.5 (0.6 - 0.5) / 0.09 = 0.5556 around the buffer's mean."""
    buffer = np.array([0.3, 0.9])
    for config, known in ((BalancedRule(scope="buffer"), True), (BalancedRule(), False)):
        candidates = one_group([0.1, 0.3], recent_quality_B=buffer, siblings_known=known)
        np.testing.assert_allclose(survive(config, candidates), [0.5 + 0.5 * 5 / 9, 0.5 + 0.3 * 5 / 9])


def test_balanced_gives_up_where_quality_does_not_vary():
    np.testing.assert_allclose(survive(BalancedRule(), one_group([0.2] * 4)), 0.5)


def test_neyman_weight_is_the_expected_squared_advantage():
    """q (1-b)^2 + (1-q) b^2 at b = 0.2: 0.64 for right, 0.04 for wrong, 0.34 at even odds."""
    base = np.full(3, 0.2)
    np.testing.assert_allclose(neyman_weight(np.array([1, 0, 0.5]), base) ** 2, [0.64, 0.04, 0.34])
    np.testing.assert_allclose(neyman_weight(np.array([0.0]), np.array([0.0])), [0.02])
    np.testing.assert_allclose(neyman_weight(np.array([0.3, 0.9]), np.full(2, 0.5)), 0.5)


@pytest.mark.parametrize(("past", "direction"), [(0.1, 1), (0.9, -1)])
def test_neyman_prefers_the_rarer_outcome(past, direction):
    candidates = one_group([0.3, 0.7], history_C=np.full(2, past))
    found = survive(NeymanRule(shrinkage=100.0), candidates)
    assert np.sign(found[1] - found[0]) == direction


def test_neyman_history_counts_as_shrinkage_rollouts():
    """b = (2 x 0.3 + 4 x 0.6) / 6 = 0.5: uniform. Without history b = 0.3 favours the likelier right."""
    np.testing.assert_allclose(survive(NeymanRule(), one_group([0.1, 0.5], history_C=np.full(2, 0.6))), 0.5)
    unknown = survive(NeymanRule(), one_group([0.1, 0.5], history_C=np.full(2, np.nan)))
    assert unknown[0] < 0.5 < unknown[1]


def test_neyman_batch_moves_survivors_to_mixed_groups():
    quality = np.array([0.02] * 4 + [0.5] * 4 + [0.98] * 4)
    candidates = Candidates(quality, np.repeat([0, 1, 2], 4))
    batch = survive(NeymanRule(scope="batch"), candidates).reshape(3, 4).mean(1)
    assert batch[1] > 0.8
    np.testing.assert_allclose(batch[[0, 2]], batch[0])
    assert batch.mean() == pytest.approx(0.5)
    group = survive(NeymanRule(), candidates)
    np.testing.assert_allclose(group, 0.5)


def test_neyman_without_siblings_scales_over_the_buffer_with_its_own_histories():
    """The buffer: half dead prompts (b = 0.02), half mixed. Judged alone, the same population keeps its half."""
    quality, past = np.array([0.02, 0.5] * 20), np.array([0.02, 0.5] * 20)
    recent = {"recent_quality_B": quality, "recent_history_B": past, "siblings_known": False}
    alone = [
        survive(NeymanRule(), one_group([q], history_C=np.array([b]), **recent))[0]
        for q, b in zip(quality, past, strict=True)
    ]
    assert np.mean(alone) == pytest.approx(0.5, abs=1e-9)
    assert alone[1] > 2 * alone[0]
    new = survive(NeymanRule(), one_group([0.26], **recent))  # an unknown prompt is taken for the buffer's mean
    known = survive(NeymanRule(), one_group([0.26], history_C=np.array([0.26]), **recent))
    np.testing.assert_allclose(new, known)


def test_confidence_keeps_the_upper_quantile():
    recent = np.linspace(-2, -1, 101)
    candidates = one_group(
        [0.5] * 3, confidence_C=np.array([-1.8, -1.3, -1.1]), recent_confidence_B=recent, siblings_known=False
    )
    assert survive(ConfidenceRule(), candidates, 0.25).tolist() == [0, 0, 1]
    assert survive(ConfidenceRule(), candidates, 0.5).tolist() == [0, 1, 1]
    np.testing.assert_allclose(survive(ConfidenceRule(mix=0.2), candidates, 0.5), [0.1, 0.9, 0.9])


def test_extremes_keeps_both_ends_of_each_group():
    quality = np.array([0.1, 0.9, 0.5, 0.4, 0.2, 0.3, 0.8, 0.7])
    found = survive(ExtremesRule(), Candidates(quality, np.array([0, 0, 0, 0, 1, 1, 1, 1])))
    assert found.tolist() == [1, 1, 0, 0, 1, 0, 1, 0]
    assert survive(ExtremesRule(), one_group([0.1, 0.6, 0.9]), 0.4).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("num_right", "target", "right", "wrong"),
    [(6, 0.5, 4, 4), (2, 0.5, 2, 6), (15, 0.5, 7, 1), (0, 0.5, 0, 8), (16, 0.5, 8, 0), (6, 0.25, 2, 6)],
)
def test_oracle_counts(num_right, target, right, wrong):
    """Of 16, keep 8: as many right ones as the target asks, as there are, and as the wrong ones leave room for."""
    reward = np.array([1.0] * num_right + [0.0] * (16 - num_right))
    found = survival.oracle(reward, OracleRule(target_positive_ratio=target), 0.5)
    assert found[reward > 0].sum() == pytest.approx(right)
    assert found[reward == 0].sum() == pytest.approx(wrong)


def test_clipped_line_at_its_limits():
    tilt = np.array([-0.2, 0.0, 0.2])
    np.testing.assert_allclose(clipped_line(tilt, tilt, 0.5, (0.1, 0.9)), [0.3, 0.5, 0.7])
    np.testing.assert_allclose(clipped_line(tilt, tilt, 0.05, (0.1, 0.9)), 0.1)
    np.testing.assert_allclose(clipped_line(tilt, tilt, 1.0, (0.1, 0.9)), 0.9)
    np.testing.assert_allclose(clipped_line(tilt, tilt, 0.8, (0.1, 0.9)), [0.65, 0.85, 0.9])


def test_conditional_survival_by_hand():
    """Ratios .5 and 1, to be halved on average: c = 2/3. Those at the product's floor pass with certainty."""
    found = conditional_survival(np.array([0.4, 0.8]), np.array([0.8, 0.8]), 0.5, 0.1)
    np.testing.assert_allclose(found, [1 / 3, 2 / 3])
    found = conditional_survival(np.array([0.1, 0.2]), np.array([0.1, 0.8]), 0.5, 0.1)
    np.testing.assert_allclose(found, [1.0, 0.125])
    alone = conditional_survival(
        np.array([0.4]), np.array([0.8]), 0.5, 0.1, over=(np.array([0.4, 0.8]), np.array([0.8, 0.8]))
    )
    np.testing.assert_allclose(alone, [1 / 3])


def test_lift_leaves_groups_that_have_enough():
    given = np.array([0.5, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(lift_to_floor(given, np.zeros(4, int), {0: 2}, 0.1) >= 0.5, True)
    np.testing.assert_array_equal(lift_to_floor(given, np.zeros(4, int), {0: 1}, 0.1), given)
    np.testing.assert_array_equal(given, 0.5)


def test_lift_takes_from_the_others_what_they_can_give():
    """Group 0 needs 2 of 4 and has 0.8; group 1 pays 1.2 of its 3.2. Were its own floor 3, it could pay 0.2."""
    given, group = np.array([0.2] * 4 + [0.8] * 4), np.repeat([0, 1], 4)
    lifted = lift_to_floor(given, group, {0: 2}, 0.1)
    np.testing.assert_allclose(lifted, [0.5] * 4 + [0.5] * 4, atol=1e-8)
    lifted = lift_to_floor(given, group, {0: 2, 1: 3}, 0.1)
    np.testing.assert_allclose(lifted, [0.5] * 4 + [0.75] * 4, atol=1e-8)


def test_lift_where_a_rule_stops_all():
    np.testing.assert_allclose(lift_to_floor(np.zeros(4), np.zeros(4, int), {0: 2}, 0.1), 0.5, atol=1e-8)
    lifted = lift_to_floor(np.array([1.0, 0, 0]), np.zeros(3, int), {0: 2}, 0.1)
    np.testing.assert_allclose(lifted, [1, 0.5, 0.5], atol=1e-8)
    assert lift_to_floor(np.zeros(2), np.zeros(2, int), {0: 5}, 0.1).tolist() == [1, 1]


def test_lift_lowers_no_group_below_its_own_floor():
    lowest = np.array([0.1] * 4 + [0.4, 0.4, 0.1, 0.1])
    lifted = lift_to_floor(np.array([0.1] * 4 + [0.5] * 4), np.repeat([0, 1], 4), {0: 2}, lowest)
    assert (lifted[4:6] >= 0.4).all()
    assert (lifted[6:] < 0.4).all()
