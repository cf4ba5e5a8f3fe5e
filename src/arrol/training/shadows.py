"""What stopped rollouts would have been: a sampled share of them is finished aside, for the record alone.

They are finished after the step's sampling, with the weights that wrote them, from a random stream of their own. They
never train, no metric of the run counts them, and no other rollout changes: a run with them has the numbers of one
without. Deviation: the continuation is a fresh sample, not the tokens that the rollout's own stream would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from arrol.engines.stops import completion_text
from arrol.protocols import Engine, Task, Tokenizer
from arrol.records.groups import known_logprobs, rounded
from arrol.records.pieces import Pieces
from arrol.records.schema import ShadowRecord
from arrol.types import (
    Completion,
    FinishReason,
    GroupRequest,
    Prompt,
    Rollout,
    RolloutGroup,
    RolloutId,
    SamplingParams,
    Verdict,
)

SHADOW_STREAM = 0x5AD0
SHADOW_SEED = 2**62 + 1
"""Added to the run's seed, which is at most 2**62: no token of a run is drawn from such a stream."""


@dataclass(frozen=True)
class Shadow:
    """A stopped rollout and how it might have gone on."""

    rollout: Rollout
    completion: Completion
    """The continuation, without the tokens before the stop."""
    verdict: Verdict

    @property
    def rollout_id(self) -> RolloutId:
        return self.rollout.rollout_id

    def record(self, segment: int) -> ShadowRecord:
        step, group, index = self.rollout_id
        return ShadowRecord(
            step=step,
            segment=segment,
            group=group,
            index=index,
            completion_tokens=self.rollout.completion.num_tokens + self.completion.num_tokens,
            finish_reason=self.completion.finish_reason.value,
            reward=None if math.isnan(self.verdict.reward) else self.verdict.reward,
            success=self.verdict.success,
            quality=self.rollout.quality_or(math.nan),
        )


@dataclass(frozen=True)
class Finisher:
    """What finishing takes; ``seed`` is the run's."""

    engine: Engine
    task: Task
    tokenizer: Tokenizer
    params: SamplingParams
    seed: int


def finish_stopped(groups: Sequence[RolloutGroup], share: float, by: Finisher) -> list[Shadow]:
    """Each stopped rollout with probability ``share``, finished and verified, in the order of the groups."""
    chosen = [
        (group.prompt, rollout)
        for group in groups
        for rollout in group.rollouts
        if rollout.completion.finish_reason is FinishReason.PRUNED and _is_drawn(rollout.rollout_id, share, by.seed)
    ]
    ends: dict[RolloutId, Completion] = {}
    for length in sorted({rollout.completion.num_tokens for _, rollout in chosen}):
        same = [pair for pair in chosen if pair[1].completion.num_tokens == length]
        params = replace(by.params, max_completion_tokens=by.params.max_completion_tokens - length)
        requests = [_request(prompt, rollout) for prompt, rollout in same]
        written = by.engine.generate(requests, params, seed=by.seed + SHADOW_SEED)
        ends |= {rollout.rollout_id: one for (_, rollout), (one,) in zip(same, written, strict=True)}
    return [
        Shadow(rollout, ends[rollout.rollout_id], _verdict(prompt, rollout, ends, by)) for prompt, rollout in chosen
    ]


def shadow_metrics(shadows: Sequence[Shadow]) -> dict[str, float]:
    """Counts of a step; empty without any."""
    if not shadows:
        return {}
    return {
        "shadow/rollouts": float(len(shadows)),
        "shadow/tokens": float(sum(shadow.completion.num_tokens for shadow in shadows)),
        "shadow/right_frac": float(np.mean([shadow.verdict.is_right for shadow in shadows])),
    }


def add_shadows(texts: Sequence[dict[str, Any]], shadows: Sequence[Shadow], pieces: Pieces) -> None:
    """Put what stopped rollouts would have been beside them, under ``shadow``."""
    rollouts = {
        (group["group"], rollout["index"]): (group, rollout) for group in texts for rollout in group["rollouts"]
    }
    for shadow in shadows:
        group, rollout = rollouts[shadow.rollout_id.group, shadow.rollout_id.index]
        table = {text: place for place, text in enumerate(group["tokens"])}
        ids = shadow.completion.token_ids
        rollout["shadow"] = {
            "tokens": [table.setdefault(text, len(table)) for text in pieces.of(ids)],
            "logprobs": known_logprobs(shadow.completion.sampler_logprobs_T),
            "answer": shadow.verdict.answer,
            "reward": rounded(shadow.verdict.reward),
            "ended": shadow.completion.finish_reason.value,
        }
        group["tokens"] = list(table)


def _is_drawn(rollout_id: RolloutId, share: float, seed: int) -> bool:
    return bool(np.random.default_rng([seed, SHADOW_STREAM, *rollout_id]).random() < share)


def _request(prompt: Prompt, rollout: Rollout) -> GroupRequest:
    step, group, index = rollout.rollout_id
    begun = replace(prompt, token_ids=(*prompt.token_ids, *rollout.completion.token_ids))
    return GroupRequest(step, group, begun, 1, first=index, prune=False)


def _verdict(prompt: Prompt, rollout: Rollout, ends: dict[RolloutId, Completion], by: Finisher) -> Verdict:
    end = ends[rollout.rollout_id]
    if not end.finish_reason.survived:
        return Verdict(math.nan, None)
    token_ids = (*rollout.completion.token_ids, *end.token_ids)
    return by.task.submit(prompt, completion_text(by.tokenizer, token_ids, by.params.stop), token_ids)()
