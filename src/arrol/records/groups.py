"""What a run keeps of a verified group: a row for each rollout, and its texts, token by token.

:mod:`arrol.records.texts` describes the file of texts.
Legend: ``G`` rollouts of a group, ``T`` completion tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from arrol.records.pieces import Pieces
from arrol.records.schema import RolloutRecord
from arrol.types import FinishReason, PruningDecision, Rollout, RolloutGroup


class RecordedGroup(NamedTuple):
    """A verified group and its part of the update."""

    group: RolloutGroup
    advantage_G: np.ndarray
    """float64 ``[G]``: before its weight; 0 where nothing trains."""
    weight_G: np.ndarray
    """float64 ``[G]``: factor of the advantage, such as 1/survival."""
    left_out_G: Sequence[str]
    """``G`` strings: why a rollout does not train; empty where it does, or would if it were verified."""


def rollout_records(group: RolloutGroup, left_out_G: Sequence[str], segment: int) -> list[RolloutRecord]:
    """One row for each rollout; ``left_out_G`` as in :class:`RecordedGroup`."""
    return [
        _record(group, rollout, reason if rollout.survived else "", segment)
        for rollout, reason in zip(group.rollouts, left_out_G, strict=True)
    ]


def group_texts(recorded: RecordedGroup, pieces: Pieces, probe_tokens: Sequence[int]) -> dict[str, Any]:
    """A group as JSON values; ``probe_tokens`` are the positions of the run's probes."""
    group, table = recorded.group, dict[str, int]()
    rollouts = []
    for row, rollout in enumerate(group.rollouts):
        texts = pieces.of(rollout.completion.token_ids)
        rollouts.append(
            {
                "index": rollout.rollout_id.index,
                "tokens": [table.setdefault(text, len(table)) for text in texts],
                "logprobs": known_logprobs(rollout.completion.sampler_logprobs_T),
                "answer": rollout.answer,
                "advantage": rounded(recorded.advantage_G[row]),
                "weight": rounded(recorded.weight_G[row]),
                "lesson": recorded.left_out_G[row],
                "probes": [_probe(decision, probe_tokens) for decision in decisions_of(rollout)],
            }
        )
    number = group.rollouts[0].rollout_id.group if group.rollouts else -1
    return {
        "group": number,
        "prompt": group.prompt.text,
        "gold": group.prompt.answer,
        "tokens": list(table),
        "rollouts": rollouts,
    }


def decisions_of(rollout: Rollout) -> list[PruningDecision]:
    """The decisions about a rollout, first probe first."""
    found, decision = [], rollout.decision
    while decision is not None:
        found.append(decision)
        decision = decision.previous
    return found[::-1]


def known_logprobs(logprobs_T: Iterable[float]) -> list[float | None]:
    """Two decimals are enough for a colour and halve the file; None where not finite."""
    values_T = np.asarray(logprobs_T, float)
    if np.isfinite(values_T).all():
        return [round(value, 2) + 0.0 for value in values_T.tolist()]
    return [round(value, 2) + 0.0 if np.isfinite(value) else None for value in values_T.tolist()]


def rounded(value: float) -> float | None:
    """Five digits; None where not finite."""
    return float(f"{value:.5g}") if np.isfinite(value) else None


def _record(group: RolloutGroup, rollout: Rollout, left_out: str, segment: int) -> RolloutRecord:
    decision, address = rollout.decision, rollout.rollout_id
    return RolloutRecord(
        step=address.step,
        segment=segment,
        group=address.group,
        index=address.index,
        prompt_key=group.prompt.key,
        level=group.prompt.level,
        finish_reason=FinishReason(rollout.completion.finish_reason).value,
        completion_tokens=rollout.completion.num_tokens,
        reward=rollout.reward,
        score=decision.score if decision else float("nan"),
        quality=decision.quality if decision else float("nan"),
        survival=rollout.survival,
        reason=decision.reason.value if decision else "",
        keep=rollout.survived and not left_out,
        dropped="outcome" if rollout.dropped else left_out,
        success=rollout.success,
    )


def _probe(decision: PruningDecision, probe_tokens: Sequence[int]) -> dict[str, Any]:
    known = decision.probe < len(probe_tokens)
    return {
        "at": int(probe_tokens[decision.probe]) if known else None,
        "score": rounded(decision.score),
        "quality": rounded(decision.quality),
        "survival": rounded(decision.survival),
        "keep": decision.keep,
        "reason": decision.reason.value,
    }
