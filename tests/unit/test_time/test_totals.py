"""Totals of many votes, and each clause of the tie rule."""

import numpy as np

from arrol.test_time.totals import VoteTotals


def totals(classes, weights, num_classes=3):
    return VoteTotals.of(np.array([classes]), None if weights is None else np.array([weights], float), num_classes)


def test_totals_by_hand():
    votes = totals([0, 1, 1, -1, 2], [2.0, 0.5, 0.25, 9.0, np.nan])
    assert votes.total_SM.tolist() == [[2.0, 0.75, 0.0]]
    assert votes.count_SM.tolist() == [[1, 2, 0]]
    assert votes.winners().tolist() == [0]


def test_no_weights_are_ones():
    for classes in ([0, 1, 1, -1, 2], [2, 2, 0, 0], [-1, -1]):
        ones = totals(classes, [1.0] * len(classes))
        np.testing.assert_array_equal(totals(classes, None).total_SM, ones.total_SM)
        assert totals(classes, None).winners() == ones.winners()


def test_ties_larger_count_first():
    assert totals([0, 1, 1], [1.0, 0.5, 0.5]).winners().tolist() == [1]


def test_then_larger_single_weight():
    assert totals([0, 0, 1, 1], [0.5, 0.5, 0.3, 0.7]).winners().tolist() == [1]


def test_then_lower_index():
    assert totals([2, 1, 1, 2], [0.5, 0.5, 0.5, 0.5]).winners().tolist() == [2]


def test_sums_that_are_equal_on_paper_are_tied():
    assert 0.1 + 0.2 > 0.3
    assert totals([0, 1, 1], [0.3, 0.1, 0.2]).leaders_SM.tolist() == [[True, True, False]]
    assert totals([0, 1, 1], [0.3 + 1e-6, 0.1, 0.2]).leaders_SM.tolist() == [[True, False, False]]
    assert totals([0, 1], [1e-12, 2e-12]).leaders_SM.tolist() == [[False, True, False]]  # relative, not absolute


def test_weights_of_zero_leave_it_to_the_majority():
    votes = totals([1, 0, 0], [0.0, 0.0, 0.0])
    assert votes.leaders_SM.tolist() == [[True, False, False]]
    assert totals([1, 0, 0], [0.0, 0.0, 0.0]).winners().tolist() == [0]
    assert totals([-1, 2, -1], [1.0, 0.0, 1.0]).winners().tolist() == [2]


def test_without_a_vote_the_winner_is_minus_one():
    votes = totals([-1, 0], [1.0, np.nan])
    assert not votes.leaders_SM.any()
    assert votes.winners().tolist() == [-1]
    assert VoteTotals.of(np.full((2, 3), -1), None, 0).winners().tolist() == [-1, -1]


def test_votes_do_not_mix():
    stream = np.random.default_rng(0)
    class_SN, weight_SN = stream.integers(-1, 4, (200, 6)), stream.integers(0, 3, (200, 6)) / 2
    together = VoteTotals.of(class_SN, weight_SN, 4)
    alone = [VoteTotals.of(class_SN[s : s + 1], weight_SN[s : s + 1], 4) for s in range(200)]
    np.testing.assert_array_equal(together.total_SM, np.concatenate([t.total_SM for t in alone]))
    np.testing.assert_array_equal(together.winners(), np.concatenate([t.winners() for t in alone]))
    assert (together.leaders_SM.sum(-1) > 1).any()
