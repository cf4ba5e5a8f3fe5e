"""Held-out accuracy: prompts of a task, completions of an engine, verdicts of its verifier. Nothing is pruned.

Legend: ``P`` prompts, ``G`` samples per prompt.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from arrol.evaluation.metrics import accuracy_with_interval, pass_at_k
from arrol.evaluation.problems import Sample, SampledProblem
from arrol.protocols import Engine, Task
from arrol.records.schema import EvalRecord
from arrol.types import Completion, GroupRequest, Prompt, SamplingParams, Verdict

EVALUATION_SEED = 20_000_003
"""Added to the run's seed, so that evaluation shares no random numbers with training."""


class Written(NamedTuple):
    """A prompt with its completions, their texts and verdicts."""

    prompt: Prompt
    completions: list[Completion]
    texts: list[str]
    verdicts: list[Verdict]

    def problem(self) -> SampledProblem:
        """The row of a samples file."""
        samples = (
            Sample(
                completion=text,
                answer=verdict.answer,
                reward=verdict.reward,
                num_tokens=completion.num_tokens,
                finish_reason=completion.finish_reason,
                logprobs=tuple(completion.sampler_logprobs_T.tolist()),
            )
            for completion, text, verdict in zip(self.completions, self.texts, self.verdicts, strict=True)
        )
        return SampledProblem(self.prompt.key, self.prompt.text, self.prompt.answer, tuple(samples), self.prompt.level)


class Amount(NamedTuple):
    """Number of prompts and samples, and the seed."""

    num_prompts: int
    samples: int
    """Completions per prompt."""
    seed: int
    step: int = 0


def sample_prompts(engine: Engine, task: Task, tokenizer: Any, params: SamplingParams, amount: Amount) -> list[Written]:
    """Held-out prompts with verified completions; a completion that failed counts as wrong."""
    prompts = task.eval_prompts(amount.num_prompts)
    requests = [GroupRequest(amount.step, number, prompt, amount.samples) for number, prompt in enumerate(prompts)]
    groups = engine.generate(requests, params, seed=amount.seed + EVALUATION_SEED)
    written = []
    for prompt, completions in zip(prompts, groups, strict=True):
        texts = [tokenizer.decode(completion.token_ids, skip_special_tokens=True) for completion in completions]
        verdicts = [
            task.verify(prompt, text) if completion.finish_reason.survived else Verdict(0.0, None)
            for completion, text in zip(completions, texts, strict=True)
        ]
        written.append(Written(prompt, completions, texts, verdicts))
    return written


def sample_rewards(
    engine: Engine,
    task: Task,
    tokenizer: Any,
    params: SamplingParams,
    *,
    num_prompts: int,
    samples: int,
    seed: int,
    step: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and completion tokens of held-out prompts, both float64 ``[P, G]``."""
    written = sample_prompts(engine, task, tokenizer, params, Amount(num_prompts, samples, seed, step))
    reward_PG = np.array([[verdict.reward for verdict in one.verdicts] for one in written], float)
    tokens_PG = np.array([[completion.num_tokens for completion in one.completions] for one in written], float)
    return reward_PG.reshape(-1, samples), tokens_PG.reshape(-1, samples)


def evaluate(
    engine: Engine,
    task: Task,
    tokenizer: Any,
    params: SamplingParams,
    *,
    num_prompts: int,
    samples: int,
    seed: int,
    step: int,
    segment: int = 0,
) -> EvalRecord:
    """One row of the learning curve; prompts and random numbers are the same at every step, so steps are paired."""
    reward_PG, tokens_PG = sample_rewards(
        engine, task, tokenizer, params, num_prompts=num_prompts, samples=samples, seed=seed
    )
    accuracy, low, high = accuracy_with_interval(reward_PG)
    metrics = {"eval/completion_tokens/mean": float(tokens_PG.mean())}
    if samples > 1:
        right_P = (reward_PG > 0).sum(1)
        metrics[f"eval/pass_at_{samples}"] = float(pass_at_k(right_P, samples, samples).mean())
    return EvalRecord(
        step=step, segment=segment, accuracy=accuracy, low=low, high=high, num_prompts=reward_PG.shape[0],
        samples_per_prompt=samples, metrics=metrics,
    )  # fmt: skip
