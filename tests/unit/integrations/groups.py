"""Groups as a host would hold them after some of their rollouts were stopped."""

import numpy as np

from arrol.types import Completion, FinishReason, Prompt, PruningDecision, Reason, Rollout, RolloutGroup, RolloutId


def group_of(keep, survival, rewards, *, lengths=None, quality=0.5, step=1, number=0, features=None):
    """``rewards`` of stopped rollouts are ignored; ``survival`` 1 means that a rollout was never a candidate."""
    rollouts = []
    lengths = lengths or [index + 1 for index in range(len(keep))]
    for index, kept in enumerate(keep):
        rollout_id = RolloutId(step, number, index)
        reason = FinishReason.STOP if kept else FinishReason.PRUNED
        decision = None
        if survival[index] < 1 or features is not None:
            decision = PruningDecision(
                rollout_id, 0, bool(kept), survival[index], Reason.DRAW, 0.1 * index, quality, version=1
            )
        completion = Completion(
            tuple(range(lengths[index])),
            np.zeros(lengths[index], np.float32),
            reason,
            {} if features is None else {features: np.full(3, float(index), np.float32)},
        )
        rollouts.append(Rollout(rollout_id, completion, decision, rewards[index] if kept else None))
    return RolloutGroup(Prompt(f"p{number}", (1, 2), "", ""), rollouts)


class ByteTexts:
    """A tokenizer of bytes; a first token loses the blank in front of it, as some tokenizers write it."""

    def decode(self, ids, *, skip_special_tokens):
        assert not skip_special_tokens
        text = bytes(ids).decode("utf-8", "replace")
        return text[1:] if text.startswith(" ") else text
