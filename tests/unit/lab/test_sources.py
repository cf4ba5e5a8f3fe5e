"""Pools of samples and of a run's records."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from arrol.errors import DataError
from arrol.evaluation.problems import Sample, SampledProblem
from arrol.lab.advice import success_rates
from arrol.lab.scores import auroc_by_length
from arrol.lab.sources import pool_of_run, pool_of_samples
from arrol.records.schema import RolloutRecord
from viewer_runs import run_row


def problem(key, *samples):
    return SampledProblem(key, f"{key}?", None, samples)


def record(step, group, index, reward, *, key="a", tokens=6, quality=0.5):
    return RolloutRecord(
        step=step, group=group, index=index, prompt_key=key, level=0, finish_reason="stop", completion_tokens=tokens,
        reward=reward, score=0.0, quality=quality, survival=1.0, reason="", keep=True,
    )  # fmt: skip


def run_of(records, probes=(4,)):
    return SimpleNamespace(
        run=replace(run_row(), name="r", config={"pruning": {"probe_tokens": list(probes)}}), rollouts=tuple(records)
    )


def test_ragged_problems_are_padded():
    one = problem("a", Sample("x", reward=1.0, num_tokens=3), Sample("y", reward=0.0, num_tokens=5))
    cut = Sample("z", reward=0.0, num_tokens=9, finish_reason="length")
    notes = []
    pool = pool_of_samples([one, problem("b", cut, *one.samples)], notes)
    assert pool.length_PN.tolist() == [[3, 5, 0], [9, 3, 5]]
    assert pool.is_known_PN.tolist() == [[True, True, False], [True] * 3]
    assert pool.is_truncated_PN.sum() == 1
    assert notes == ["no log-probability of every token in the file: what a head could know is unknown"]
    assert not pool.has_gradients


def test_lengths_are_assumed_from_characters_and_said_so():
    notes = []
    pool = pool_of_samples([problem("a", Sample("12345", reward=1.0), Sample("", reward=0.0))], notes)
    assert pool.length_PN.tolist() == [[2, 1]]
    assert notes[0] == "no token counts in the file: a token is taken as 4 characters"


def test_prompts_with_fewer_than_two_rewards_are_left_out():
    notes = []
    two = problem("a", Sample("x", reward=1.0), Sample("y", reward=0.0))
    pool = pool_of_samples([problem("b", Sample("x", reward=1.0), Sample("y")), two], notes)
    assert pool.keys == ("a",)
    assert notes[0] == "1 of 2 prompts have fewer than two rewards and are left out"
    with pytest.raises(DataError, match="rollouts: no prompt has two with a reward; give several completions"):
        pool_of_samples([problem("a", Sample("x", reward=1.0))], [])


def test_log_probabilities_become_qualities_that_know_what_they_can():
    """Right completions are surer of every token."""
    rng = np.random.default_rng(0)
    problems = []
    for number in range(12):
        right = rng.random(12) < 0.5
        rows = [tuple(-rng.random(20) * (0.5 if ok else 2.0)) for ok in right]
        samples = [Sample("x", reward=float(ok), logprobs=row) for ok, row in zip(right, rows, strict=True)]
        problems.append(problem(str(number), *samples))
    notes = []
    pool = pool_of_samples(problems, notes)
    assert notes == []
    assert pool.has_features
    np.testing.assert_allclose(pool.logprobs(1, 2), problems[1].samples[2].logprobs, rtol=1e-6)
    last = auroc_by_length(pool)[-1]
    assert last["auroc_within"] > 0.95


def test_a_run_is_read_by_step_and_group():
    rows = [record(1, 0, n, float(n > 1), quality=0.1 + 0.2 * n) for n in range(4)]
    again = [record(2, 0, n, None if n else 1.0) for n in range(3)] + [record(2, 1, n, 0.0, key="b") for n in range(2)]
    notes = []
    pool = pool_of_run(run_of([*rows, *again]), notes)
    assert pool.keys == ("a@1", "b@2")
    assert notes == [
        "1 of 3 prompts have fewer than two rewards and are left out",
    ]
    np.testing.assert_allclose(pool.quality_PNK[0, :, 0], [0.1, 0.3, 0.5, 0.7], rtol=1e-6)
    assert auroc_by_length(pool)[0]["auroc_within"] == 1.0


def test_stopped_rollouts_and_prompts_that_came_again_are_said():
    notes = []
    rows = [
        record(1, 0, 0, 1.0),
        record(1, 0, 1, 0.0),
        record(1, 0, 2, None),
        record(3, 0, 0, 1.0),
        record(3, 0, 1, 0.0),
    ]
    pool = pool_of_run(run_of(rows, probes=(4, 8)), notes)
    assert pool.probe_tokens == ()
    assert notes == [
        "1 of 5 rollouts have no reward, such as stopped ones, and are left out",
        "1 of 2 groups repeat a prompt of an earlier step; each counts as its own",
    ]


def test_right_is_what_the_run_counted_as_right():
    """Rewards of -1 to 3 with a threshold of 2: the records say which were successes, null where that is unknown."""
    rewards, told = [1.0, 3.0, 2.5, -1.0], [0.0, 1.0, 1.0, None]
    rows = [replace(record(1, 0, n, rewards[n], quality=0.1), success=told[n]) for n in range(4)]
    run = run_of(rows)
    run.run.config["task"] = {"reward": ["mine:score"], "success_threshold": 2.0}
    pool = pool_of_run(run, [])
    np.testing.assert_array_equal(pool.label_PN, [[0, 1, 1, np.nan]])
    assert [array.tolist() for array in success_rates(pool)] == [[2], [3]]
    np.testing.assert_allclose(pool.reward_PN, [rewards])
    del run.run.config["task"]  # a verifier: null is no statement, so the reward tells
    assert pool_of_run(run, []).label_PN.tolist() == [[0, 1, 1, 0]]


def test_right_is_what_a_file_of_samples_says():
    samples = [Sample("x", reward=5.0, success=0.0, num_tokens=2), Sample("y", reward=0.2, success=1.0, num_tokens=2)]
    pool = pool_of_samples([problem("a", *samples, Sample("z", reward=0.9, num_tokens=2))], [])
    assert pool.label_PN.tolist() == [[0, 1, 1]]


def test_a_run_whose_successes_are_all_unknown_is_refused():
    run = run_of([record(1, 0, n, float(n)) for n in range(2)])
    run.run.config["task"] = {"reward": ["mine:score"]}
    with pytest.raises(DataError, match=r"^success: unknown for every rollout; give 1 or 0"):
        pool_of_run(run, [])


def test_a_run_without_rollouts_is_refused():
    with pytest.raises(DataError, match=r"run 'r': has no rollout records; give a run with its rollouts.jsonl"):
        pool_of_run(run_of([]), [])


@pytest.mark.parametrize("tokens", [-1, 2**31, 2**40])
def test_a_length_that_is_none_is_one_line(tokens):
    message = f"^rollouts: a completion of {tokens} tokens; give a number from 0 to 2147483647$"
    with pytest.raises(DataError, match=message):
        pool_of_run(run_of([record(1, 0, 0, 1.0), record(1, 0, 1, 0.0, tokens=tokens)]), [])


@pytest.mark.parametrize("probes", [None, 3, "4", {"4": 1}, ["4"], [[4]]])
def test_probes_of_another_shape_are_none(probes):
    run = run_of([record(1, 0, 0, 1.0), record(1, 0, 1, 0.0)])
    run.run.config["pruning"]["probe_tokens"] = probes
    assert pool_of_run(run, []).probe_tokens == ()
    run.run.config["pruning"] = probes
    assert pool_of_run(run, []).probe_tokens == ()
