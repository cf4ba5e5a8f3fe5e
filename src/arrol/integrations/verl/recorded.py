"""Groups of a verl step as the record keeps them: texts, rewards, and what trains with which advantage. Numpy only.

verl computes advantages after its sampler, from the rows that are left, and no public hook shows them. For ``grpo``
they follow from uid and reward, so they are computed here by verl's formula::

    A_i = (r_i - mean) / (std + 1e-6)     std with n - 1; Dr. GRPO: without the division; a lone row: its reward

For other estimators, and with a KL penalty in the reward, they are NaN. Legend: ``G`` rollouts of a group, ``T``
completion tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from arrol.integrations.verl.plan import Scale
from arrol.records.groups import RecordedGroup
from arrol.types import Completion, FinishReason, Rollout, RolloutGroup, RolloutId

EPSILON = 1e-6
"""verl's."""
FILTERED = "filtered"
"""Left out by verl's own sampler: group filtering, or a surplus of refilled groups."""
UNREWARDED = "unrewarded"
UNKNOWN = -1
"""Token of a completion whose text did not arrive: its number is known, and its text is empty."""


class AskedPrompt(NamedTuple):
    """What a batch says of a prompt."""

    uid: str
    """verl's name of the group."""
    text: str
    """Its messages, where no rollout tells what the policy saw."""
    gold: str


class WrittenText(NamedTuple):
    """What a worker sends of a rollout."""

    prompt_ids: np.ndarray
    """int32."""
    token_ids: np.ndarray
    """int32 ``[T]``."""
    logprobs_T: np.ndarray | None
    """float32 ``[T]``; None where verl has none."""
    answer: str | None


@dataclass(frozen=True)
class SettledGroup:
    """A verified group, as the service learned from it."""

    group: RolloutGroup
    total_G: np.ndarray
    """Rewards that train; NaN where there is none."""
    ends: Mapping[int, FinishReason]
    """How complete rollouts ended, by index."""
    left_out_G: Sequence[str]
    """Why the allocation rule leaves a rollout out; empty where it does not."""


def recorded_group(
    settled: SettledGroup,
    asked: AskedPrompt,
    written: Mapping[RolloutId, WrittenText],
    rows: Collection[tuple[str, int]] | None,
    *,
    scale: Scale,
) -> RecordedGroup:
    """The group with texts and rewards; ``rows``: uid and rollout of what trains, None where verl did not say.

    Its prompt has the tokens that the policy saw, or without them the text of its messages.
    """
    group = settled.group
    texts = [written.get(rollout.rollout_id) for rollout in group.rollouts]
    rollouts = [
        _rollout(rollout, settled, reward, text)
        for rollout, reward, text in zip(group.rollouts, settled.total_G.tolist(), texts, strict=True)
    ]
    left_out_G = [
        _left_out(rollout, reason, (asked.uid, rollout.rollout_id.index), rows)
        for rollout, reason in zip(rollouts, settled.left_out_G, strict=True)
    ]
    trains_G = np.array(
        [rollout.survived and not reason for rollout, reason in zip(rollouts, left_out_G, strict=True)], bool
    )
    known = next((text for text in texts if text is not None and len(text.prompt_ids)), None)
    prompt = replace(group.prompt, text=asked.text, answer=asked.gold)
    if known is not None:
        prompt = replace(prompt, token_ids=tuple(known.prompt_ids.tolist()), text="")
    advantage_G = verl_advantages(settled.total_G, trains_G, scale)
    return RecordedGroup(RolloutGroup(prompt, rollouts), advantage_G, trains_G.astype(float), left_out_G)


def verl_advantages(total_G: np.ndarray, trains_G: np.ndarray, scale: Scale) -> np.ndarray:
    """float64 ``[G]``: advantages of the rows that train, NaN where they do not follow from rewards; 0 elsewhere."""
    advantage_G = np.zeros(len(total_G))
    if not trains_G.any():
        return advantage_G
    reward_S = total_G[trains_G]
    if scale == "unknown":
        advantage_S = np.full(len(reward_S), np.nan)
    elif len(reward_S) == 1:
        advantage_S = reward_S / (1 + EPSILON) if scale == "std" else reward_S
    else:
        advantage_S = reward_S - reward_S.mean()
        if scale == "std":
            advantage_S = advantage_S / (reward_S.std(ddof=1) + EPSILON)
    advantage_G[trains_G] = advantage_S
    return advantage_G


def _rollout(rollout: Rollout, settled: SettledGroup, reward: float, text: WrittenText | None) -> Rollout:
    reason = settled.ends.get(rollout.rollout_id.index, rollout.completion.finish_reason)
    known_T = [UNKNOWN] * rollout.completion.num_tokens if text is None else text.token_ids.tolist()
    logprobs_T = np.full(len(known_T), np.nan, np.float32)
    if text is not None and text.logprobs_T is not None and len(text.logprobs_T) == len(known_T):
        logprobs_T = text.logprobs_T
    return replace(
        rollout,
        completion=Completion(tuple(known_T), logprobs_T, reason, rollout.completion.features_at),
        reward=None if np.isnan(reward) else reward,
        success=np.nan if rollout.reward is None and reason.survived else rollout.reward,
        answer=None if text is None else text.answer,
    )


def _left_out(rollout: Rollout, reason: str, row: tuple[str, int], rows: Collection[tuple[str, int]] | None) -> str:
    if not rollout.survived or rows is None or row in rows:
        return reason
    return UNREWARDED if rollout.reward is None else reason or FILTERED
