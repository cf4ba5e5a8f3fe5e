"""A step's completions as text, token by token, for ``arrol view``; see :mod:`arrol.records.texts` for the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from arrol.algorithms.advantages import GroupSignal
from arrol.algorithms.lesson import Lesson
from arrol.engines.stops import BYTES_PER_CHARACTER
from arrol.protocols import Tokenizer
from arrol.training.shadows import Shadow
from arrol.types import PruningDecision, Rollout, RolloutGroup

UNCLEAR = "\ufffd"
"""What a tokenizer writes for a part of a character."""


class Pieces:
    """The text of each token of a completion; joined they are its text, special tokens included."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def of(self, token_ids: Sequence[int]) -> list[str]:
        """One text per token; of the tokens of one character the last has it, the others are empty."""
        pieces = [self._piece(token_id) for token_id in token_ids]
        start = 0
        while start < len(pieces):
            if UNCLEAR in pieces[start]:
                start += self._join(token_ids, pieces, start)
            start += 1
        return pieces

    def _join(self, token_ids: Sequence[int], pieces: list[str], start: int) -> int:
        """Put the character that begins at ``start`` into its last token; how many tokens further that is."""
        for more in range(1, min(BYTES_PER_CHARACTER, len(pieces) - start)):
            text = self._tokenizer.decode(list(token_ids[start : start + more + 1]), skip_special_tokens=False)
            if UNCLEAR not in text:
                pieces[start : start + more + 1] = [""] * more + [text]
                return more
        return 0

    def _piece(self, token_id: int) -> str:
        """Between two others of its kind, since some tokenizers drop the blank in front of a first token."""
        if token_id not in self._known:
            alone = self._tokenizer.decode([token_id], skip_special_tokens=False)
            twice = self._tokenizer.decode([token_id, token_id], skip_special_tokens=False)
            self._known[token_id] = twice[len(alone) :] if twice.startswith(alone) else alone
        return self._known[token_id]


def group_texts(
    group: RolloutGroup, signal: GroupSignal, lesson: Lesson, pieces: Pieces, probe_tokens: Sequence[int]
) -> dict[str, Any]:
    """A verified group as JSON values; ``probe_tokens`` are the positions of the run's probes."""
    table: dict[str, int] = {}
    rollouts = []
    for row, rollout in enumerate(group.rollouts):
        texts = pieces.of(rollout.completion.token_ids)
        rollouts.append(
            {
                "index": rollout.rollout_id.index,
                "tokens": [table.setdefault(text, len(table)) for text in texts],
                "logprobs": _known(rollout.completion.sampler_logprobs_T),
                "answer": rollout.answer,
                "advantage": _rounded(signal.advantage_G[row]),
                "weight": _rounded(signal.weight_G[row]),
                "lesson": lesson.left_out_G[row],
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
            "logprobs": _known(shadow.completion.sampler_logprobs_T),
            "answer": shadow.verdict.answer,
            "reward": _rounded(shadow.verdict.reward),
            "ended": shadow.completion.finish_reason.value,
        }
        group["tokens"] = list(table)


def decisions_of(rollout: Rollout) -> list[PruningDecision]:
    """The decisions about a rollout, first probe first."""
    found, decision = [], rollout.decision
    while decision is not None:
        found.append(decision)
        decision = decision.previous
    return found[::-1]


def _probe(decision: PruningDecision, probe_tokens: Sequence[int]) -> dict[str, Any]:
    known = decision.probe < len(probe_tokens)
    return {
        "at": int(probe_tokens[decision.probe]) if known else None,
        "score": _rounded(decision.score),
        "quality": _rounded(decision.quality),
        "survival": _rounded(decision.survival),
        "keep": decision.keep,
        "reason": decision.reason.value,
    }


def _known(logprobs_T: np.ndarray) -> list[float | None]:
    """Two decimals are enough for a colour and halve the file; None where not finite."""
    if np.isfinite(logprobs_T).all():
        return [round(value, 2) + 0.0 for value in logprobs_T.tolist()]
    return [round(value, 2) + 0.0 if np.isfinite(value) else None for value in logprobs_T.tolist()]


def _rounded(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None
