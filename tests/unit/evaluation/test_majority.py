"""maj@k against plain enumeration, at its ends, and against the seeded subsets that stand in for it."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from arrol.errors import DataError
from arrol.evaluation.majority import SubsetPlan, maj_at_k
from arrol.test_time.voting import RULES, Ballots, rank, vote

ONLY_DRAWS = SubsetPlan(subsets=4000, exact_up_to=1)


def pool(seed, size=8, classes=4):
    """A prompt whose class 0 is right; -1 among the answers, everything else random."""
    stream = np.random.default_rng(seed)
    answer_N = stream.integers(-1, classes, size)
    ballots = Ballots(answer_N, stream.normal(size=size), stream.random(size), stream.random(size))
    return ballots, answer_N == 0


def split_credit(answers, weights, right_class):
    """The definition, in plain Python."""
    total = Counter()
    for answer, weight in zip(answers, weights, strict=True):
        if answer >= 0:
            total[answer] += weight
    if not total:
        return 0.0
    winners = [a for a, value in total.items() if value >= max(total.values()) - 1e-9]
    return (right_class in winners) / len(winners)


@pytest.mark.parametrize("k", range(1, 9))
@pytest.mark.parametrize("seed", range(4))
def test_majority_by_enumeration(seed, k):
    ballots, right_N = pool(seed)
    expected = np.mean([split_credit(ballots.answer_N[list(s)], [1] * k, 0) for s in combinations(range(8), k)])
    assert maj_at_k([ballots], [right_N], [k]).right_PK[0, 0] == pytest.approx(expected)


@pytest.mark.parametrize("name", sorted(RULES))
def test_weights_are_computed_inside_each_subset(name):
    ballots, right_N = pool(11)
    for k in (2, 3, 5):
        values = []
        for subset in combinations(range(8), k):
            part = ballots.take(np.array(subset))
            weight_N = RULES[name](part)
            answers = np.where(np.isnan(weight_N), -1, part.answer_N)
            values.append(split_credit(answers, np.nan_to_num(weight_N), 0))
        assert maj_at_k([ballots], [right_N], [k], rule=name).right_PK[0, 0] == pytest.approx(np.mean(values))


def test_one_draw_is_the_average_and_all_are_one_vote():
    pools = [pool(seed, size=9) for seed in range(20)]
    ballots_P, right_P = zip(*pools, strict=True)
    votes = maj_at_k(ballots_P, right_P, [1, 9])
    np.testing.assert_allclose(votes.right_PK[:, 0], [right_N.mean() for right_N in right_P])
    for p, (ballots, _) in enumerate(pools):
        assert votes.right_PK[p, 1] == split_credit(ballots.answer_N, np.ones(9), 0)
        assert votes.tied_PK[p, 1] == vote(ballots).is_tied


def test_deployed_ties_are_what_a_user_gets():
    for seed in range(20):
        ballots, right_N = pool(seed)
        for rule in ("majority", "rank"):
            for k in (2, 4, 8):
                won = [vote(ballots.take(np.array(s)), rule).answer == 0 for s in combinations(range(8), k)]
                votes = maj_at_k([ballots], [right_N], [k], rule=rule, deployed_ties=True)
                assert votes.right_PK[0, 0] == pytest.approx(np.mean(won))


def test_seeded_subsets_come_near_the_enumeration_and_repeat():
    pools = [pool(seed, size=10, classes=3) for seed in range(10)]
    ballots_P, right_P = zip(*pools, strict=True)
    for rule in ("majority", rank):
        exact = maj_at_k(ballots_P, right_P, [3, 5], rule=rule)
        drawn = maj_at_k(ballots_P, right_P, [3, 5], rule=rule, plan=ONLY_DRAWS)
        # 4,000 draws: standard error at most .5 / sqrt(4000) = .008; twenty values stay within four of them.
        np.testing.assert_allclose(drawn.right_PK, exact.right_PK, atol=0.032)
        np.testing.assert_allclose(drawn.tied_PK, exact.tied_PK, atol=0.032)
        np.testing.assert_array_equal(
            drawn.right_PK, maj_at_k(ballots_P, right_P, [3, 5], rule=rule, plan=ONLY_DRAWS)[0]
        )


def test_subsets_never_repeat_a_sample():
    # Three samples, answers all different: with repetition a majority of 3 could be class 0 alone, which is tied else.
    ballots, right_N = Ballots(np.array([0, 1, 2])), np.array([True, False, False])
    votes = maj_at_k([ballots], [right_N], [3], plan=SubsetPlan(subsets=50, exact_up_to=0))
    assert votes.right_PK[0, 0] == pytest.approx(1 / 3)
    assert votes.tied_PK[0, 0] == 1.0


def test_prompts_do_not_share_their_chance():
    ballots, right_N = pool(3, size=12)
    votes = maj_at_k([ballots] * 2, [right_N] * 2, [5], plan=SubsetPlan(subsets=200, exact_up_to=0))
    assert votes.right_PK[0, 0] != votes.right_PK[1, 0]


def test_prompts_differ_in_size_and_nothing_readable_is_wrong():
    silent = Ballots(np.full(5, -1))
    ballots, right_N = pool(0)
    votes = maj_at_k([silent, ballots], [np.zeros(5, bool), right_N], [1, 5])
    assert votes.right_PK[0].tolist() == [0.0, 0.0]
    assert votes.tied_PK[0].tolist() == [0.0, 0.0]
    assert votes.right_PK[1, 0] == pytest.approx(right_N.mean())


def test_two_right_classes_add_up():
    ballots = Ballots(np.array([0, 1, 2]))
    assert maj_at_k([ballots], [np.array([True, True, False])], [3]).right_PK[0, 0] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("answers", "right", "ks", "message"),
    [
        ([0, 0, 1], [True, False, False], [2], r"prompt 0: answer class 0 has right and wrong members"),
        ([-1, 0, 1], [True, True, False], [2], r"prompt 0: answer = -1 and right = True"),
        ([0, 0, 1], [True, True, False], [4], r"k = 4: prompt 0 has 3 samples"),
        ([0, 0, 1], [True, True], [2], r"prompt 0: \(3,\) answers, \(2,\) verdicts"),
    ],
)
def test_what_cannot_be_judged_is_refused(answers, right, ks, message):
    with pytest.raises(DataError, match=message):
        maj_at_k([Ballots(np.array(answers))], [np.array(right)], ks)


def test_verdicts_for_every_prompt():
    with pytest.raises(DataError, match="right_P of length 0: there are 1 prompts"):
        maj_at_k([Ballots(np.array([0]))], [], [1])


@pytest.mark.parametrize("rule", ["majority", "quality"])
def test_problems_with_the_same_answers_get_the_values_of_each_alone(rule):
    prompts = [pool(1), pool(2), pool(1), pool(3), pool(2)]
    ballots_P, right_P = [ballots for ballots, _ in prompts], [right for _, right in prompts]
    together = maj_at_k(ballots_P, right_P, [1, 3, 8], rule=rule)
    for p, (ballots, right_N) in enumerate(prompts):
        alone = maj_at_k([ballots], [right_N], [1, 3, 8], rule=rule)
        assert together.right_PK[p].tolist() == alone.right_PK[0].tolist()
        assert together.tied_PK[p].tolist() == alone.tied_PK[0].tolist()
