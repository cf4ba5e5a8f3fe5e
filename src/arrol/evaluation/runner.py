"""Held-out accuracy: prompts of a task, completions of an engine, verdicts of its verifier. Nothing is pruned.

Legend: ``P`` prompts, ``G`` samples per prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from arrol.engines.stops import completion_text
from arrol.evaluation.metrics import pass_at_k
from arrol.evaluation.problems import Sample, SampledProblem
from arrol.protocols import Engine, Task, Tokenizer
from arrol.records.schema import EvalRecord
from arrol.stats import accuracy_with_interval
from arrol.types import Completion, GroupRequest, Prompt, RolloutId, SamplingParams, Verdict
from arrol.verifiers.tally import RewardTally

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
                success=None if verdict.success is None else float(verdict.is_right),
                num_tokens=completion.num_tokens,
                finish_reason=completion.finish_reason,
                logprobs=tuple(completion.sampler_logprobs_T.tolist()),
                mark=verdict.mark or None,
                verifier=verdict.verifier or "task",
                reason=verdict.reason or None,
            )
            for completion, text, verdict in zip(self.completions, self.texts, self.verdicts, strict=True)
        )
        return SampledProblem(
            self.prompt.key, self.prompt.text, self.prompt.answer or None, tuple(samples), self.prompt.level
        )


class Amount(NamedTuple):
    """Number of prompts and samples, and the seed."""

    num_prompts: int
    samples: int
    """Completions per prompt."""
    seed: int


def sample_prompts(
    engine: Engine,
    task: Task,
    tokenizer: Tokenizer,
    params: SamplingParams,
    amount: Amount,
    *,
    on_ended: Callable[[int], None] | None = None,
) -> list[Written]:
    """Held-out prompts with verified completions; one that failed, or has no reward, counts as wrong.

    ``on_ended`` is told how many completions have ended since its last call. DataError where every call of the reward
    functions failed.
    """
    prompts = task.eval_prompts(amount.num_prompts)
    requests = [GroupRequest(0, number, prompt, amount.samples) for number, prompt in enumerate(prompts)]

    def more(ended: Sequence[tuple[RolloutId, Completion]]) -> list[GroupRequest]:
        if on_ended is not None:
            on_ended(len(ended))
        return []

    groups = engine.generate(
        requests, params, seed=amount.seed + EVALUATION_SEED, more=None if on_ended is None else more
    )
    started = []
    for prompt, completions in zip(prompts, groups, strict=True):
        texts = [completion_text(tokenizer, completion.token_ids, params.stop) for completion in completions]
        pending = [
            task.submit(prompt, text, completion.token_ids)
            if completion.finish_reason.survived
            else lambda: Verdict(0.0, None)
            for completion, text in zip(completions, texts, strict=True)
        ]
        started.append((prompt, completions, texts, pending))
    written = [
        Written(prompt, done, texts, [verdict() for verdict in pending]) for prompt, done, texts, pending in started
    ]
    _tally(written).require_one("the evaluation")
    return written


def outcomes_and_tokens(written: Sequence[Written]) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes and completion tokens, both float64 ``[P, G]``: the verifier's reward, or the success of a reward
    function, 0 where it is unknown."""
    outcome_PG = [
        [verdict.reward if verdict.success is None else float(verdict.is_right) for verdict in one.verdicts]
        for one in written
    ]
    tokens_PG = [[completion.num_tokens for completion in one.completions] for one in written]
    return np.array(outcome_PG, float), np.array(tokens_PG, float)


def eval_record(written: Sequence[Written], *, step: int, segment: int = 0) -> EvalRecord:
    """One row of the learning curve; with the same prompts and seed at every step, steps are paired."""
    outcome_PG, tokens_PG = outcomes_and_tokens(written)
    accuracy, low, high = accuracy_with_interval(outcome_PG)
    num_prompts, samples = outcome_PG.shape
    metrics = {"eval/completion_tokens/mean": float(tokens_PG.mean()), **_tally(written).metrics("eval/reward")}
    if samples > 1:
        right_P = (outcome_PG > 0).sum(1)
        metrics[f"eval/pass_at_{samples}"] = float(pass_at_k(right_P, samples, samples).mean())
        metrics[f"eval/all_right_at_{samples}"] = float((right_P == samples).mean())
    return EvalRecord(
        step=step, segment=segment, accuracy=accuracy, low=low, high=high, num_prompts=num_prompts,
        samples_per_prompt=samples, metrics=metrics,
    )  # fmt: skip


def _tally(written: Sequence[Written]) -> RewardTally:
    return RewardTally(verdict for one in written for verdict in one.verdicts)
