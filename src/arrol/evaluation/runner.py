"""Held-out accuracy: prompts of the task, samples of the engine, verdicts of the verifier. Nothing is pruned here.

Legend: ``P`` prompts, ``G`` samples per prompt.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arrol.evaluation.metrics import accuracy_with_interval, pass_at_k
from arrol.protocols import Engine, Task
from arrol.records.schema import EvalRecord
from arrol.types import GroupRequest, SamplingParams

EVALUATION_SEED = 20_000_003
"""Added to the run's seed, so that evaluation never shares random numbers with training."""


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
    """Rewards and completion tokens, both float64 ``[P, G]``, of held-out prompts."""
    prompts = task.eval_prompts(num_prompts)
    requests = [GroupRequest(step, number, prompt, samples) for number, prompt in enumerate(prompts)]
    groups = engine.generate(requests, params, seed=seed + EVALUATION_SEED)
    reward_PG, tokens_PG = np.zeros((len(prompts), samples)), np.zeros((len(prompts), samples))
    for p, (prompt, completions) in enumerate(zip(prompts, groups, strict=True)):
        for g, completion in enumerate(completions):
            text = tokenizer.decode(completion.token_ids, skip_special_tokens=True)
            reward_PG[p, g] = task.verify(prompt, text).reward if completion.finish_reason.survived else 0.0
            tokens_PG[p, g] = completion.num_tokens
    return reward_PG, tokens_PG


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
    """One row of the learning curve. The same prompts and random numbers at every step, so steps compare in pairs."""
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
