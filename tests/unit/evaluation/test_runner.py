"""The same held-out prompts and random numbers at every step, and nothing is pruned."""

from types import SimpleNamespace

import numpy as np

from arrol.evaluation.runner import EVALUATION_SEED, Amount, eval_record, rewards_and_tokens, sample_prompts
from arrol.types import Completion, FinishReason, Prompt, SamplingParams, Verdict

TOKENIZER = SimpleNamespace(decode=lambda ids, skip_special_tokens: "".join(map(str, ids)))
PARAMS = SamplingParams(4)


class Task:
    name = "digits"

    def eval_prompts(self, count):
        return [Prompt(f"p{i}", (i,), "?", str(i)) for i in range(min(count, 3))]

    def verify(self, prompt, text):
        return Verdict(float(text.endswith(prompt.answer)), text, mark="box", reason="equal")

    def submit(self, prompt, text):
        return lambda: self.verify(prompt, text)


class Engine:
    """Rollout g of prompt p writes p times g; the last one of each prompt cannot be finished."""

    def __init__(self):
        self.calls = []

    def generate(self, requests, params, *, seed, controller=None):
        self.calls.append((seed, controller, [request.rollout_ids for request in requests]))
        return [[self._write(request.group, g, request.size) for g in range(request.size)] for request in requests]

    def _write(self, p, g, size):
        reason = FinishReason.ERROR if g == size - 1 else FinishReason.STOP
        return Completion((1,) * g + (p,) if g else (9,), np.zeros(g + 1, np.float32), reason)


def sampled(engine, num_prompts, samples, *, seed):
    return sample_prompts(engine, Task(), TOKENIZER, PARAMS, Amount(num_prompts, samples, seed))


def test_rewards_and_lengths_stand_by_prompt_and_sample():
    reward_PG, tokens_PG = rewards_and_tokens(sampled(Engine(), 3, 3, seed=1))
    assert reward_PG.tolist() == [[0, 1, 0]] * 3  # the last is right, but was not finished
    assert tokens_PG.tolist() == [[1, 2, 3]] * 3


def test_a_row_of_the_learning_curve():
    engine = Engine()
    records = [eval_record(sampled(engine, 9, 4, seed=1), step=step, segment=2) for step in (0, 7)]
    assert [record.step for record in records] == [0, 7]
    assert records[0].accuracy == records[1].accuracy == 0.5
    assert records[0].num_prompts == 3  # all there are
    assert (records[1].segment, records[1].samples_per_prompt) == (2, 4)
    assert records[1].metrics == {"eval/completion_tokens/mean": 2.5, "eval/pass_at_4": 1.0}
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
