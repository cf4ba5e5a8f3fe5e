"""The same held-out prompts and random numbers at every step, and nothing is pruned."""

from types import SimpleNamespace

import numpy as np
import pytest

from arrol.errors import DataError
from arrol.evaluation.runner import EVALUATION_SEED, Amount, eval_record, outcomes_and_tokens, sample_prompts
from arrol.types import Completion, FinishReason, Prompt, SamplingParams, Verdict

TOKENIZER = SimpleNamespace(decode=lambda ids, skip_special_tokens: "".join(map(str, ids)))
PARAMS = SamplingParams(4)


class Task:
    name = "digits"

    def eval_prompts(self, count):
        return [Prompt(f"p{i}", (i,), "?", str(i)) for i in range(min(count, 3))]

    def verify(self, prompt, text):
        return Verdict(float(text.endswith(prompt.answer)), text, mark="box", reason="equal")

    def submit(self, prompt, text, token_ids=()):
        return lambda: self.verify(prompt, text)


class Engine:
    """Rollout g of prompt p writes p times g; the last one of each prompt cannot be finished."""

    def __init__(self):
        self.calls = []

    def generate(self, requests, params, *, seed, controller=None, more=None):
        if more is not None:
            ended = [rollout_id for request in requests for rollout_id in request.rollout_ids]
            assert more([(one, None) for one in ended[:1]]) == more([(one, None) for one in ended[1:]]) == []
        self.calls.append((seed, controller, [request.rollout_ids for request in requests]))
        return [[self._write(request.group, g, request.size) for g in range(request.size)] for request in requests]

    def _write(self, p, g, size):
        reason = FinishReason.ERROR if g == size - 1 else FinishReason.STOP
        return Completion((1,) * g + (p,) if g else (9,), np.zeros(g + 1, np.float32), reason)


def sampled(engine, num_prompts, samples, *, seed):
    return sample_prompts(engine, Task(), TOKENIZER, PARAMS, Amount(num_prompts, samples, seed))


def test_rewards_and_lengths_stand_by_prompt_and_sample():
    reward_PG, tokens_PG = outcomes_and_tokens(sampled(Engine(), 3, 3, seed=1))
    assert reward_PG.tolist() == [[0, 1, 0]] * 3  # the last is right, but was not finished
    assert tokens_PG.tolist() == [[1, 2, 3]] * 3


def test_completions_are_counted_as_they_end():
    counts = []
    sample_prompts(Engine(), Task(), TOKENIZER, PARAMS, Amount(3, 4, 0), on_ended=counts.append)
    assert counts == [1, 11]


def test_a_row_of_the_learning_curve():
    engine = Engine()
    records = [eval_record(sampled(engine, 9, 4, seed=1), step=step, segment=2) for step in (0, 7)]
    assert [record.step for record in records] == [0, 7]
    assert records[0].accuracy == records[1].accuracy == 0.5
    assert records[0].num_prompts == 3  # all there are
    assert (records[1].segment, records[1].samples_per_prompt) == (2, 4)
    assert records[1].metrics == {
        "eval/completion_tokens/mean": 2.5,
        "eval/pass_at_4": 1.0,
        "eval/all_right_at_4": 0.0,
    }
    assert engine.calls[0] == engine.calls[1]
    seed, controller, ids = engine.calls[0]
    assert (seed, controller, ids[0][0].step) == (1 + EVALUATION_SEED, None, 0)


def test_one_sample_has_no_pass_at_k():
    record = eval_record(sampled(Engine(), 2, 1, seed=0), step=1)
    assert set(record.metrics) == {"eval/completion_tokens/mean"}


def test_samples_keep_what_the_verdict_says():
    (one, *_) = sampled(Engine(), 1, 2, seed=0)
    done, failed = one.problem().samples
    assert (done.answer, done.reward, done.mark, done.verifier, done.reason) == ("9", 0.0, "box", "task", "equal")
    assert (failed.answer, failed.reward, failed.mark, failed.verifier) == (None, 0.0, None, "task")


class RewardTask(Task):
    """A reward function: a shaped reward, a success, a failure."""

    given = (
        Verdict(5.0, None, verifier="m:f", success=1.0, parts=(("f", 5.0),)),
        Verdict(-1.0, None, verifier="m:f", success=0.0, parts=(("f", -1.0),)),
        Verdict(np.nan, None, verifier="m:f", success=np.nan, failed=True, reason="task.reward = 'm:f': E"),
    )

    def submit(self, prompt, text, token_ids=()):
        assert len(token_ids) == len(text)
        return lambda: self.given[len(text) - 1]


def rewarded(task):
    return sample_prompts(Engine(), task, TOKENIZER, PARAMS, Amount(2, 4, 0))


def test_where_a_reward_function_judges_accuracy_is_the_share_of_successes_and_the_mean_reward_stands_beside_it():
    written = rewarded(RewardTask())
    record = eval_record(written, step=1)
    assert record.accuracy == 0.25  # one of three rewarded and one that was not finished
    assert record.metrics["eval/pass_at_4"] == 1.0
    found = {name: value for name, value in record.metrics.items() if name.startswith("eval/reward")}
    assert found == {
        "eval/reward/mean": 2.0, "eval/reward/f/mean": 2.0, "eval/reward/failed": 2.0, "eval/reward/missing": 0.0
    }  # fmt: skip
    right, wrong, failed, _ = written[0].problem().samples
    assert [(s.reward, s.success) for s in (right, wrong, failed)] == [(5.0, 1.0), (-1.0, 0.0), (None, 0.0)]
    assert (failed.verifier, failed.reason) == ("m:f", "task.reward = 'm:f': E")


def test_an_evaluation_in_which_every_reward_failed_is_one_line():
    task = RewardTask()
    task.given = (RewardTask.given[2],) * 3
    with pytest.raises(DataError, match=r"E; all 6 rewards of the evaluation failed"):
        rewarded(task)
