"""Vote rules: the worked example, their promises, and what they refuse."""

import doctest
from functools import partial
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrol.errors import ConfigError, DataError
from arrol.test_time import voting
from arrol.test_time.voting import (
    RULES,
    Ballots,
    best_of_n,
    distinct_answers,
    for_full_pool,
    leading_share,
    log_odds,
    majority,
    mean_ranks,
    quality,
    rank,
    rank_floor,
    right_classes,
    score_prob,
    softmax,
    top_percent,
    vote,
)


def pool(seed, size=9, classes=4):
    stream = np.random.default_rng(seed)
    return Ballots(
        stream.integers(-1, classes, size),
        stream.normal(size=size),
        stream.random(size),
        stream.gamma(3.0, size=size),
        stream.uniform(0.2, 1.0, size),
    )


def test_the_documented_example():
    assert doctest.testmod(voting).failed == 0
    assert doctest.testmod(voting).attempted == 3


class TestWeights:
    SCORES = np.array([2.0, 1.0, 0.5, -1.0])

    def test_rank_by_hand(self):
        ballots = Ballots(np.zeros(4, int), self.SCORES)
        np.testing.assert_allclose(rank(ballots), [1, 2 / 3, 1 / 3, 0])
        np.testing.assert_allclose(rank_floor(ballots), [1, 3 / 4, 1 / 2, 1 / 4])
        np.testing.assert_allclose(rank(Ballots(np.zeros(1, int), self.SCORES[:1])), [1.0])
        np.testing.assert_allclose(rank(Ballots(np.zeros(2, int), self.SCORES[:2])), [1.0, 0.0])

    def test_equal_scores_get_the_mean_of_their_ranks(self):
        np.testing.assert_allclose(mean_ranks(np.array([3.0, 1.0, 3.0, 0.0, 1.0, 1.0])), [1.5, 4, 1.5, 6, 4, 4])
        np.testing.assert_allclose(mean_ranks(np.zeros(5)), np.full(5, 3.0))
        np.testing.assert_allclose(rank(Ballots(np.zeros(3, int), np.zeros(3))), np.full(3, 0.5))

    def test_ranks_of_many_subsets_are_those_of_each(self):
        value_SN = np.random.default_rng(0).integers(0, 4, (50, 7)).astype(float)
        np.testing.assert_array_equal(mean_ranks(value_SN), np.stack([mean_ranks(row) for row in value_SN]))

    def test_an_unreadable_candidate_counts_in_n(self):
        with_it = rank(Ballots(np.array([0, -1, 1]), np.array([1.0, 2.0, 0.0])))
        np.testing.assert_allclose(with_it, [0.5, 1.0, 0.0])

    def test_sigmoid_is_exact_and_does_not_overflow(self):
        probs = score_prob(Ballots(np.zeros(4, int), np.array([0.0, np.log(3), -800.0, 800.0])))
        np.testing.assert_allclose(probs, [0.5, 0.75, 0.0, 1.0])

    def test_log_odds_by_hand(self):
        # Three answers: log(q / (1-q)) + log 2. q = 1/3 is then worth nothing; q = .99 is capped at .98.
        ballots = Ballots(np.array([0, 1, 2, -1]), quality_N=np.array([1 / 3, 0.2, 0.99, 0.5]))
        np.testing.assert_allclose(log_odds(ballots), [0.0, 0.0, np.log(49 * 2), np.log(2)], atol=1e-12)
        # One answer: as if there were two.
        np.testing.assert_allclose(
            log_odds(Ballots(np.zeros(2, int), quality_N=np.array([0.75, 0.25]))), [np.log(3), 0]
        )

    def test_distinct_answers_ignore_the_unreadable(self):
        assert distinct_answers(np.array([[-1, 2, 2, 5], [-1, -1, -1, -1], [0, 1, 2, 3]])).tolist() == [2, 0, 4]

    def test_softmax_is_a_share_and_tends_to_best_of_n(self):
        ballots = Ballots(np.arange(4), self.SCORES + 1000)
        assert softmax(ballots).sum() == pytest.approx(1.0)
        np.testing.assert_allclose(softmax(ballots, 0.01), best_of_n(ballots), atol=1e-12)
        np.testing.assert_allclose(softmax(ballots, 1e6), np.full(4, 0.25), atol=1e-6)

    def test_best_of_n_is_the_best_that_can_be_read(self):
        assert best_of_n(Ballots(np.array([-1, 0, 1]), np.array([9.0, 1.0, 2.0]))).tolist() == [0.0, 0.0, 1.0]

    def test_the_filter_keeps_the_weights_of_the_whole_pool(self):
        ballots = Ballots(np.array([0, 1, 2, -1]), self.SCORES, confidence_N=np.array([1.0, 3.0, 2.0, 9.0]))
        np.testing.assert_allclose(top_percent(rank, 50)(ballots), [np.nan, 2 / 3, 1 / 3, np.nan])
        np.testing.assert_allclose(top_percent(majority, 50, by="score")(ballots), [1, 1, np.nan, np.nan])

    def test_quality_times_confidence_rank(self):
        ballots = Ballots(np.zeros(2, int), quality_N=np.array([0.4, 0.9]), confidence_N=np.array([700.0, 5.0]))
        np.testing.assert_allclose(RULES["quality_confidence"](ballots), [0.4, 0.45])


class TestVote:
    def test_shares_and_counts(self):
        result = vote(Ballots(np.array([7, 7, 3, -1]), quality_N=np.array([0.5, 0.25, 0.25, 0.9])), "quality")
        assert result == (7, 0.75, 3, False)
        assert vote(Ballots(np.array([7, 3, 3, -1]))) == (3, pytest.approx(2 / 3), 3, False)

    def test_without_an_answer_the_result_is_minus_one(self):
        assert vote(Ballots(np.full(3, -1))) == (-1, 0.0, 0, False)
        assert vote(Ballots(np.zeros(0, int))) == (-1, 0.0, 0, False)

    def test_a_filtered_candidate_has_no_vote_and_breaks_no_tie(self):
        ballots = Ballots(np.array([0, 1, 1]), np.zeros(3), confidence_N=np.array([5.0, 5.0, 1.0]))
        assert vote(ballots).answer == 1
        assert vote(ballots, top_percent(majority, 60)) == (0, 0.5, 2, True)

    def test_quality_of_a_head_that_knows_nothing_is_majority(self):
        for seed in range(50):
            answer_N = pool(seed).answer_N
            for constant in (0.0, 0.3, 1.0):
                result = vote(Ballots(answer_N, quality_N=np.full(9, constant)), "quality")
                expected = vote(Ballots(answer_N))
                assert result._replace(share=0.0) == expected._replace(share=0.0)
                assert result.share == pytest.approx(expected.share)

    @given(
        st.lists(st.tuples(st.integers(-1, 3), st.integers(-3, 3)), min_size=1, max_size=12),
        st.sampled_from([np.exp, np.arctan, lambda s: s**3 + s, lambda s: 5 * s - 100]),
    )
    def test_rank_is_invariant_to_monotone_maps(self, rows, grow):
        answer_N, score_N = np.array(rows).T
        mapped = Ballots(answer_N, grow(score_N.astype(float)))
        np.testing.assert_array_equal(rank(Ballots(answer_N, score_N)), rank(mapped))
        assert vote(Ballots(answer_N, score_N), "rank") == vote(mapped, "rank")

    @pytest.mark.parametrize("name", sorted(RULES))
    def test_order_of_candidates_matters_for_ties_alone(self, name):
        stream = np.random.default_rng(3)
        for seed in range(30):
            ballots = pool(seed)
            result = vote(ballots, name)
            shuffled = vote(ballots.take(stream.permutation(9)), name)
            assert shuffled.num_votes == result.num_votes
            assert shuffled.is_tied == result.is_tied
            assert shuffled.share == pytest.approx(result.share)
            assert shuffled.answer == result.answer or result.is_tied

    @pytest.mark.parametrize("name", sorted(RULES))
    def test_the_quick_share_is_that_of_the_vote(self, name):
        for seed in range(30):
            result = vote(pool(seed), name)
            assert leading_share(pool(seed), name) == (pytest.approx(result.share), result.num_votes)
        silent = Ballots(np.full(2, -1), np.zeros(2), np.zeros(2), np.zeros(2))
        assert leading_share(silent, name) == (0.0, 0)
        assert leading_share(Ballots(np.array([3, 1, 3]), quality_N=np.zeros(3)), "quality") == (2 / 3, 3)

    def test_order_decides_only_the_last_clause(self):
        winners = {vote(Ballots(np.array(order))).answer for order in permutations([0, 0, 1, 1, 2])}
        assert winners == {0, 1}

    def test_shuffled_scores_cost_votes(self):
        # Share of right candidates .4, four wrong answers of .15: the same pools, majority against useless ranks.
        stream = np.random.default_rng(0)
        right = {"rank": 0, "majority": 0}
        for _ in range(1500):
            answer_N = stream.choice(5, 9, p=[0.4, 0.15, 0.15, 0.15, 0.15])
            ballots = Ballots(answer_N, stream.permutation(9).astype(float))
            for rule in right:
                right[rule] += vote(ballots, rule).answer == 0
        assert right["rank"] < right["majority"] - 30

    def test_pruned_pools_can_stand_for_the_full_one(self):
        # Mean over the lottery of V is V of the full pool: survival .5 and 1, both patterns enumerated.
        full = Ballots(np.array([0, 1]), quality_N=np.array([0.8, 0.3]), survival_N=np.array([0.5, 1.0]))
        both, alone = full, full.take(np.array([1]))
        corrected = for_full_pool(quality)
        total_0 = 0.5 * corrected(both)[0] + 0.5 * 0.0
        total_1 = 0.5 * corrected(both)[1] + 0.5 * corrected(alone)[0]
        assert (total_0, total_1) == pytest.approx((0.8, 0.3))
        np.testing.assert_allclose(quality(both), [0.8, 0.3])  # the default does not correct


class TestRightClasses:
    def test_classes_of_right_members(self):
        assert right_classes(np.array([4, 0, 4, -1]), np.array([True, False, True, False])).tolist() == [4]
        assert right_classes(np.array([4, 0]), np.array([False, False])).tolist() == []

    def test_a_class_that_is_right_and_wrong_is_refused(self):
        with pytest.raises(DataError, match="answer class 4 has right and wrong members"):
            right_classes(np.array([4, 4]), np.array([True, False]))
        with pytest.raises(DataError, match="answer = -1 and right = True"):
            right_classes(np.array([-1, -1]), np.array([True, False]))


class TestRefusals:
    def test_unknown_rules_are_named(self):
        with pytest.raises(ConfigError, match="vote = 'mode': not a rule; choose from best_of_n, confidence"):
            vote(pool(0), "mode")

    @pytest.mark.parametrize("name", sorted(set(RULES) - {"majority"}))
    def test_a_rule_says_what_it_misses(self, name):
        with pytest.raises(
            DataError, match=r"^(score|quality|confidence)_N = None: the vote reads this column; give one number per"
        ):
            vote(Ballots(np.array([0, 1])), name)

    def test_values_must_be_numbers_in_range(self):
        answer_N = np.array([0, 1])
        with pytest.raises(DataError, match="score = nan: this vote needs a finite number per candidate"):
            vote(Ballots(answer_N, np.array([0.5, np.nan])), "rank")
        with pytest.raises(DataError, match=r"quality in \[0.5, 1.5\]"):
            vote(Ballots(answer_N, quality_N=np.array([0.5, 1.5])), "quality")
        with pytest.raises(DataError, match=r"survival = 0\.0"):
            vote(Ballots(answer_N, survival_N=np.array([0.5, 0.0])), for_full_pool(majority))
        with pytest.raises(DataError, match=r"weight = -1.5: must be finite and at least 0"):
            vote(Ballots(answer_N, confidence_N=np.array([-1.5, 2.0])), "confidence")

    def test_arrays_must_fit(self):
        with pytest.raises(DataError, match=r"score_N of shape \(3,\): \(2,\) answers; give one per candidate"):
            Ballots(np.array([0, 1]), np.zeros(3))
        with pytest.raises(DataError, match="answer_N of type float64"):
            Ballots(np.array([0.0, 1.0]))
        with pytest.raises(DataError, match="takes one prompt; give one axis"):
            vote(Ballots(np.zeros((2, 2), int)))

    def test_a_temperature_is_above_0(self):
        with pytest.raises(ConfigError, match=r"temperature = 0\.0: give a number above 0, or vote by best_of_n"):
            softmax(pool(0), 0.0)

    def test_wrappers_combine(self):
        ballots = pool(1)
        rule = top_percent(for_full_pool(partial(softmax, temperature=0.5)), 50, by="score")
        kept_N = ~np.isnan(rule(ballots))
        expected_N = softmax(ballots, 0.5) / ballots.survival_N
        np.testing.assert_allclose(rule(ballots)[kept_N], expected_N[kept_N])
        assert 0 < kept_N.sum() < (ballots.answer_N >= 0).sum()
