"""Weighted sums, successes, failures, and one call for all completions that wait."""

import logging
import math
import sys

import pytest

from arrol.configs.task import DatasetTaskConfig
from arrol.errors import ConfigError, DataError
from arrol.verifiers.functions import RewardFunction, Submission
from arrol.verifiers.judge import ENOUGH, MAX_TOLD, RewardJudge, success_place
from unit.verifiers import reward_module

CALLS = []


def right(completions, gold, **columns):
    CALLS.append(list(completions))
    return [float(text == answer) for text, answer in zip(completions, gold, strict=True)]


def long(completions, **columns):
    if "boom" in completions:
        raise ValueError("boom")
    return [None if text == "?" else len(text) for text in completions]


async def later(completions, **columns):
    return [2.0 for _ in completions]


@pytest.fixture(autouse=True)
def forgotten():
    CALLS.clear()


def submission(text, key="k"):
    return Submission(key, {"prompt": "q", "gold": "4"}, text, ())


def judge(*functions, weights=None, **options):
    found = [
        RewardFunction(f"m:{f.__name__}", f, w, f.__name__)
        for f, w in zip(functions, weights or [1.0] * len(functions), strict=True)
    ]
    return RewardJudge(found, **options)


def verdicts(one, *texts):
    pending = [one.submit(submission(text, key=f"row{n}")) for n, text in enumerate(texts)]
    return [wait() for wait in pending]


def test_one_call_judges_all_that_wait_in_their_order():
    one = judge(right)
    pending = [one.submit(submission(text)) for text in ("4", "5", "4")]
    assert CALLS == []
    assert [pending[place]().reward for place in (2, 0, 1)] == [1.0, 1.0, 0.0]
    assert CALLS == [["4", "5", "4"]]
    assert verdicts(one, "4")[0].success == 1.0
    assert CALLS[1:] == [["4"]]


def test_the_reward_is_the_weighted_sum_and_one_function_says_what_is_right():
    one = judge(right, long, weights=[2.0, -0.5], success="right")
    found, other = verdicts(one, "4", "wrong")
    assert (found.reward, found.success, found.parts) == (1.5, 1.0, (("right", 1.0), ("long", 1.0)))
    assert (other.reward, other.success) == (-2.5, 0.0)
    assert (found.verifier, found.answer, found.failed, found.is_right, other.is_right) == (
        "m:right, m:long",
        None,
        False,
        True,
        False,
    )


def test_the_threshold_divides_successes_and_must_be_exceeded():
    one = judge(long, threshold=3.0)
    assert [verdict.success for verdict in verdicts(one, "aaa", "aaaa")] == [0.0, 1.0]
    assert [verdict.reward for verdict in verdicts(one, "aaa", "aaaa")] == [3.0, 4.0]


def test_none_leaves_a_function_out_of_the_sum_and_all_none_is_no_reward():
    one = judge(right, long, success="right")
    (found,) = verdicts(one, "?")
    assert (found.reward, found.success) == (0.0, 0.0)
    assert math.isnan(found.parts[1][1])
    (found,) = verdicts(judge(long), "?")
    assert math.isnan(found.reward)
    assert math.isnan(found.success)
    assert not found.failed
    assert not found.is_right


def test_a_failure_of_one_function_leaves_no_reward_and_names_function_row_and_error(caplog):
    one = judge(right, long, success="right")
    fine, failed = verdicts(one, "4", "boom")
    assert (fine.reward, fine.failed) == (2.0, False)
    assert math.isnan(failed.reward)
    assert math.isnan(failed.success)
    assert failed.failed
    assert failed.reason.startswith("task.reward = 'm:long': row 'row1' ('q'): ValueError: boom, test_judge.py line ")
    (line,) = caplog.messages
    assert line == f"arrol: {failed.reason}; this completion has no reward and does not train"


def test_the_first_failures_are_told_and_the_rest_counted(caplog):
    with caplog.at_level(logging.WARNING):
        verdicts(judge(long), *["boom"] * 9)
    assert len(caplog.messages) == MAX_TOLD + 1
    assert caplog.messages[-1] == "arrol: further failures of reward functions are only counted, in reward/failed"


def test_async_functions_share_one_event_loop():
    loops = []

    async def looped(completions, **columns):
        import asyncio

        loops.append(asyncio.get_running_loop())
        return [1.0 for _ in completions]

    one = judge(looped, later, success="looped")
    assert [v.reward for v in verdicts(one, "a")] == [3.0]
    assert [v.reward for v in verdicts(one, "b")] == [3.0]
    assert loops[0] is loops[1]
    one.close()
    assert [v.reward for v in verdicts(one, "c")] == [3.0]
    one.close()


def test_the_function_that_says_what_is_right_must_be_named_among_several():
    assert success_place(["a"], None) == 0
    assert success_place(["a", "b"], "b") == 1
    for name, names in ((None, ["a", "b"]), ("c", ["a", "b"]), ("c", ["a"])):
        with pytest.raises(ConfigError, match=rf"task.success_reward = {name!r}: name the one of \['a'"):
            success_place(names, name)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda completions: 1.0, DataError, "returned 1.0, no list"),
        (lambda completions: [1.0], DataError, "returned 1 rewards for 2 completions"),
        (lambda completions: [math.nan] * 2, ConfigError, "task.reward = 'm:f': returned nan; return a finite number"),
        (lambda completions: ["a", "b"], ConfigError, "returned 'a', no number"),
    ],
)
def test_a_trial_refuses_what_is_no_list_of_numbers(call, error, message):
    call.__name__ = "f"
    with pytest.raises(error, match=message):
        judge(call).try_on(submission(""))


def test_a_trial_passes_an_error_over_for_it_may_be_about_that_completion():
    judge(long).try_on(submission("boom"))
    judge(right).try_on(submission(""))


def test_columns_are_checked_of_every_function():
    one = judge(later, right, success="right")
    one.require_columns(["gold"])
    with pytest.raises(ConfigError, match=r"task.reward = 'm:right': needs 'gold'"):
        one.require_columns(["answer"])


def test_a_config_makes_a_judge(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = reward_module.write(tmp_path, "of_a_config")
    fields = {"source": "x", "reward_folder": folder}
    assert RewardJudge.of(DatasetTaskConfig(**fields)) is None
    reward = ["of_a_config:right", {"function": "of_a_config:length", "weight": 0.25}]
    config = DatasetTaskConfig(**fields, reward=reward, success_reward="length", success_threshold=-2.0)
    one = RewardJudge.of(config)
    (found,) = [one.submit(Submission("k", {"prompt": "q", "gold": "4"}, "4", (1, 2)))()]
    assert (found.reward, found.success) == (0.5, 0.0)
    limited = RewardJudge.of(DatasetTaskConfig(**fields, reward=reward[:1], reward_time_limit_s=20))
    (found,) = [limited.submit(Submission("k", {"prompt": "q", "gold": "4"}, "4", (1, 2)))()]
    assert (found.reward, found.success, found.parts) == (1.0, 1.0, (("right", 1.0),))
    with pytest.raises(DataError, match="a cell of row 'k' cannot be sent to a worker process"):
        limited.submit(Submission("k", {"prompt": "q", "gold": lambda: 0}, "4", ()))()
    limited.close()
    del sys.modules["of_a_config"]


@pytest.mark.parametrize(
    ("values", "threshold", "message"),
    [
        ((0.0, 0.4), 0.5, "none of the first 256 values of 'm:f' (0 to 0.4) is above it, so no completion counts as a"),
        ((0.6, 2.0), 0.5, "each of the first 256 values of 'm:f' (0.6 to 2) is above it, so all count as a success;"),
        ((0.0, 1.0), 0.5, None),
        ((0.0, 0.0), 0.5, None),
        ((0.5, 0.7), 0.5, None),
    ],
)
def test_a_threshold_that_does_not_divide_the_values_is_said_once(caplog, values, threshold, message):
    def f(completions, **columns):
        return [values[n % 2] for n in range(len(completions))]

    one = judge(f, threshold=threshold)
    verdicts(one, *["a"] * (ENOUGH - 2))
    assert caplog.messages == []
    verdicts(one, *["a"] * ENOUGH)
    found = [line for line in caplog.messages if line.startswith(f"arrol: task.success_threshold = {threshold:g}: ")]
    assert len(found) == len(caplog.messages) == (message is not None)
    assert all(message in line for line in found)
