"""Rows of metrics and votes: computed by hand on four samples, paired, and open about what was asked."""

import pytest

from arrol.errors import ConfigError, DataError
from arrol.evaluation.cautions import cautions_of
from arrol.evaluation.judging import judged, verifier_for
from arrol.evaluation.problems import Sample, SampledProblem
from arrol.evaluation.summary import (
    COLUMNS,
    facts,
    level_rows,
    metric_rows,
    parsed_vote,
    possible_votes,
    require_samples,
    require_votes,
    usual_ks,
    vote_rows,
)
from arrol.test_time.voting import RULES
from arrol.verifiers.pool import VerifierPool


def sample(answer, score=None, confidence=None, **more):
    told = {} if confidence is None else {"confidences": (confidence,)}
    return Sample(f"#### {answer}" if answer else "no", score=score, num_tokens=10, **told, **more)


def judge(*answers_P, gold="4", levels=None, **columns):
    problems = []
    for p, answers in enumerate(answers_P):
        samples = [sample(a, **{k: v[p][n] for k, v in columns.items()}) for n, a in enumerate(answers)]
        problems.append(SampledProblem(f"p{p}", "?", gold, tuple(samples), 0 if levels is None else levels[p]))
    with VerifierPool(verifier_for(problems), num_workers=1) as pool:
        return judged(problems, pool)


def values(rows, name="metric"):
    return {row[name]: row["value"] for row in rows}


def test_metrics_by_hand():
    found = judge("4455", "4555", levels=[1, 2])
    got = values(metric_rows(found, [1, 2, 4]))
    assert got["avg@4"] == pytest.approx((0.5 + 0.25) / 2)
    assert got["pass@1"] == got["maj@1"] == got["avg@4"]
    assert got["pass@2"] == pytest.approx((1 - 1 / 6 + 0.5) / 2)
    assert got["pass@4"] == 1.0
    assert got["maj@4"] == pytest.approx((0.5 + 0) / 2), "a tie of two answers is half right"
    assert got["coverage gap@4"] == pytest.approx(0.75)
    assert values(level_rows(found)) == {"level 1": 0.5, "level 2": 0.25}
    assert "best-of-2" not in got


def test_best_of_k_needs_scores_and_finds_the_highest():
    got = values(metric_rows(judge("4455", score=[[0.0, 3.0, 1.0, 2.0]]), [1, 4]))
    assert got["best-of-4"] == 1.0
    assert got["best-of-1"] == 0.5


def test_no_levels_no_breakdown():
    assert level_rows(judge("45", "44")) == []


def test_more_samples_than_there_are_is_refused():
    with pytest.raises(DataError, match="k = 3: prompt 0 has 2 samples"):
        metric_rows(judge("45"), [3])


def problems_of(found):
    return [one.problem for one in found]


def test_usual_ks_end_with_all():
    assert usual_ks(problems_of(judge("4" * 20, "4" * 18))) == [1, 4, 16, 18]
    assert usual_ks(problems_of(judge("4"))) == [1]


def test_a_k_above_the_samples_names_the_problem():
    found = problems_of(judge("455", "45"))
    require_samples(found, [1, 2])
    with pytest.raises(DataError, match=r"--k = 3: problem 'p1' has 2 samples; sample more or give a smaller k"):
        require_samples(found, [1, 3])


def test_votes_are_compared_with_the_majority_of_the_same_samples():
    found = judge("45556", "45556", score=[[5, 1, 1, 1, 1.0]] * 2)
    rows = vote_rows(found, ["majority", "best_of_n", "oracle"], [5])
    assert values(rows, "vote") == {"majority": 0.0, "best_of_n": 1.0, "oracle": 1.0}
    assert [row["ahead"] for row in rows] == [0.0, 1.0, 1.0]
    assert {row["tokens_per_problem"] for row in rows} == {50.0}


def test_filters_of_deepconf_keep_the_confident():
    found = judge("4" + "5" * 9, confidence=[[9.0] + [1.0] * 9])
    rows = vote_rows(found, ["confidence:lowest:top10", "confidence:lowest:top90", "majority"], [10])
    assert [row["value"] for row in rows] == [1.0, 0.5, 0.0], (
        "nine at the threshold stay, and nine ones tie with a nine"
    )


def test_possible_votes_follow_the_file():
    assert possible_votes(problems_of(judge("45"))) == ["majority", "oracle"]
    names = possible_votes(problems_of(judge("45", score=[[0.0, 1.0]], confidence=[[1.0, 2.0]])))
    assert {"rank", "best_of_n", "confidence:tail", "confidence:lowest:top10"} <= set(names)
    assert "quality" not in names


@pytest.mark.parametrize("name", ["majorty", "confidence:low", "confidence:tail:top50", ""])
def test_a_vote_that_does_not_exist_is_refused(name):
    with pytest.raises(ConfigError, match=f"rules: '{name}' is no vote"):
        parsed_vote(name)


def test_a_vote_names_the_sample_that_lacks_its_column():
    found = problems_of(judge("45", "45", score=[[0.0, 1.0], [0.0, None]]))
    require_votes(found, ["majority", "oracle"])
    with pytest.raises(DataError, match="--rules: 'rank' reads score, which sample 2 of problem 'p1' lacks"):
        require_votes(found, ["majority", "rank"])
    with pytest.raises(DataError, match="'majority:tail:top10' reads confidence, which sample 1 of problem 'p0' lacks"):
        require_votes(found, ["majority:tail:top10"])


def test_every_rule_has_its_columns():
    assert set(COLUMNS) == set(RULES)


def test_a_vote_whose_values_are_missing_says_which():
    with pytest.raises(DataError, match="score_N = None: the vote reads this column"):
        vote_rows(judge("45"), ["rank"], [2])


def test_facts_count_what_cannot_be_read():
    found = facts(judge(["4", ""], ["4", "5"]))
    assert sum(found.pop("judged_by").values()) == 4
    assert found == {
        "problems": 2,
        "samples": 4,
        "tokens_per_sample": 10.0,
        "unreadable_frac": 0.25,
    }


def rewarded(*rewards_P, gold=None):
    """Problems that a reward function judged; above 2 is a success, None has no reward."""

    def one(reward):
        return Sample("text", reward=reward, success=float((reward or 0) > 2), verifier="m:f")

    problems = [SampledProblem(f"p{p}", "?", gold, tuple(map(one, rewards))) for p, rewards in enumerate(rewards_P)]
    with VerifierPool(verifier_for(problems), num_workers=1) as pool:
        return judged(problems, pool)


def test_where_a_reward_function_judged_there_is_no_vote():
    found = rewarded([3.0, 1.0, None], [0.5, 0.5, 2.0])
    rows = values(metric_rows(found, [1, 3]))
    assert list(rows) == ["mean reward", "avg@3", "pass@1", "pass@3"]
    assert rows["mean reward"] == pytest.approx((2.0 + 1.0) / 2)
    assert (rows["avg@3"], rows["pass@3"]) == (pytest.approx(1 / 6), 0.5)
    counts = facts(found)
    assert (counts["unreadable_frac"], counts["unrewarded"], counts["judged_by"]) == (0.0, 1, {"m:f": 6})
    assert cautions_of(found) == []
    assert list(values(metric_rows(rewarded([None, None]), [1]))) == ["avg@2", "pass@1"]


def test_a_gold_answer_judges_no_more_what_a_function_judged():
    found = rewarded([3.0, None], gold="a sentence of some words, no number at all")
    assert [s.reward for s in found[0].samples] == [3.0, None]
    assert cautions_of(found) == []
