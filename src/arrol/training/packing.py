"""Survivors to microbatches; owner of masks, weights and denominators. A stopped rollout costs nothing here.

The batch is cut by groups into minibatches (one optimiser step each), and each minibatch, siblings together and
otherwise by length, into microbatches of at most ``microbatch_tokens`` padded tokens. Rollouts whose advantage is
exactly 0 have no gradient and are left out too, unless a KL term would give them one. Denominators belong to the
minibatch, so neither split changes the gradient. Legend: ``R`` rollouts, ``T`` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from arrol.algorithms.advantages import GroupSignal
from arrol.algorithms.losses import Denominator
from arrol.training.sharing import SharedTokens, shared_tokens
from arrol.types import Rollout, RolloutGroup, RolloutId


@dataclass(frozen=True)
class Example:
    """A survivor with what it teaches."""

    prompt_ids: tuple[int, ...]
    rollout: Rollout
    advantage: float
    weight: float

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + self.rollout.completion.num_tokens


@dataclass(frozen=True)
class Microbatch:
    """Right-padded tensors. Worked example: prompt (5, 6), completion (7, 2) beside prompt (5,), completion (9,)::

    ids_RT       [[5, 6, 7, 2], [5, 9, 0, 0]]       selected_RT  [[0, 0, 1, 1], [0, 1, 0, 0]]
    loss_mask_RC [[1, 1], [1, 0]]                   (C completion positions; same tokens in the same order)
    """

    ids_RT: torch.Tensor
    selected_RT: torch.Tensor
    loss_mask_RC: torch.Tensor
    sampler_logprobs_RC: torch.Tensor
    advantage_R: torch.Tensor
    weight_R: torch.Tensor
    rollout_ids: tuple[RolloutId, ...]
    """Who is in which row."""
    shared: SharedTokens
    """The same tokens without padding, each prompt once."""

    @property
    def num_completion_tokens(self) -> int:
        return int(self.selected_RT.sum())

    def unflatten(self, values_N: torch.Tensor) -> torch.Tensor:
        """Values of the selected tokens, in order, to ``[R, C]``; 0 elsewhere."""
        return torch.zeros_like(self.sampler_logprobs_RC).masked_scatter(self.loss_mask_RC.bool(), values_N)


def group_examples(
    group: RolloutGroup, advantage_G: np.ndarray, weight_G: np.ndarray, *, keep_zero: bool
) -> list[Example]:
    """The survivors of a group that have something to teach."""
    return [
        Example(group.prompt.token_ids, rollout, float(advantage), float(weight))
        for rollout, advantage, weight in zip(group.rollouts, advantage_G, weight_G, strict=True)
        if rollout.survived and weight > 0 and (advantage != 0.0 or keep_zero)
    ]


def batch_denominator(
    groups: Sequence[RolloutGroup], signals: Sequence[GroupSignal], max_completion_tokens: int
) -> Denominator:
    """Sizes of an optimiser step over these groups; dead and stopped rollouts count where their signal says so."""
    lengths = [np.array([r.completion.num_tokens if r.survived else 0 for r in group.rollouts]) for group in groups]
    tokens = sum(float((s.weight_G * length_G).sum()) for s, length_G in zip(signals, lengths, strict=True))
    rollouts = sum(signal.effective_rollouts for signal in signals)
    return Denominator(max(rollouts, 1.0), max(tokens, 1.0), max_completion_tokens)


def split_groups(num_groups: int, minibatches: int, key: Sequence[int]) -> list[list[int]]:
    """Group numbers of each minibatch, shuffled by the key; parts differ by one at most, empty ones are left out."""
    order = np.random.default_rng(list(key)).permutation(num_groups) if minibatches > 1 else np.arange(num_groups)
    return [part.tolist() for part in np.array_split(order, minibatches) if len(part)]


def pack(examples: Sequence[Example], microbatch_tokens: int, device: torch.device) -> tuple[Microbatch, ...]:
    """Longest first, so that too large a budget fails at once and not at the end; siblings behind their longest."""
    chunks: list[list[Example]] = []
    longest: dict[tuple[int, int], int] = {}
    for example in examples:
        group = example.rollout.rollout_id[:2]
        longest[group] = max(longest.get(group, 0), example.num_tokens)

    def place(example: Example) -> tuple[int, tuple[int, int], int]:
        group = example.rollout.rollout_id[:2]
        return -longest[group], group, -example.num_tokens

    widest = 0
    for example in sorted(examples, key=place):
        widest = max(widest, example.num_tokens)
        if chunks and widest * (len(chunks[-1]) + 1) <= microbatch_tokens:
            chunks[-1].append(example)
        else:
            chunks.append([example])
            widest = example.num_tokens
    return tuple(_tensors(chunk, device) for chunk in chunks)


def _tensors(chunk: list[Example], device: torch.device) -> Microbatch:
    rows, width = len(chunk), max(e.num_tokens for e in chunk)
    longest = max(e.rollout.completion.num_tokens for e in chunk)
    ids_RT, selected_RT = np.zeros((rows, width), np.int64), np.zeros((rows, width), bool)
    mask_RC, logprobs_RC = np.zeros((rows, longest), np.float32), np.zeros((rows, longest), np.float32)
    for row, example in enumerate(chunk):
        completion, start = example.rollout.completion, len(example.prompt_ids)
        ids_RT[row, :start] = example.prompt_ids
        ids_RT[row, start : example.num_tokens] = completion.token_ids
        selected_RT[row, start : example.num_tokens] = True
        mask_RC[row, : completion.num_tokens] = 1.0
        logprobs_RC[row, : completion.num_tokens] = completion.sampler_logprobs_T
    return Microbatch(
        ids_RT=torch.from_numpy(ids_RT).to(device),
        selected_RT=torch.from_numpy(selected_RT).to(device),
        loss_mask_RC=torch.from_numpy(mask_RC).to(device),
        sampler_logprobs_RC=torch.from_numpy(logprobs_RC).to(device),
        advantage_R=torch.tensor([e.advantage for e in chunk], dtype=torch.float32, device=device),
        weight_R=torch.tensor([e.weight for e in chunk], dtype=torch.float32, device=device),
        rollout_ids=tuple(e.rollout.rollout_id for e in chunk),
        shared=shared_tokens([e.prompt_ids for e in chunk], [e.rollout.completion.token_ids for e in chunk], device),
    )
