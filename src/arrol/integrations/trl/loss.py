"""TRL's ``inputs`` of ``compute_loss``, reduced to what trains: arrol's advantages, no dead rows and columns. Torch.

Legend: ``R`` rows, ``K`` kept rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from arrol.integrations.trl.batch import RewardedGroup, RowKey, row_key
from arrol.integrations.trl.host import TrainerLike
from arrol.integrations.trl.signal import BatchTotals, GroupAdvantages, MicrobatchSizes, loss_factor

Inputs = Mapping[str, torch.Tensor]
"""Most tensors have one row per completion."""


class RowSignal(NamedTuple):
    """A row's part of the loss."""

    advantage: float
    """Advantage times weight, and times the factor of thinning."""
    weight: float
    """Rollouts that the row stands for in a denominator; 0 where a selection leaves it out."""
    trains: bool
    """False: without weight, or left out by thinning; its weight counts all the same."""
    trl_advantage: tuple[float, float] = (0.0, 0.0)
    """What TRL computes for it: least and most among rows of equal tokens."""


STOPPED = RowSignal(0.0, 1.0, True)
CHANGE_TOLERANCE = 1e-2
"""Allowed change of TRL's advantages, which are computed in float32."""


@dataclass(frozen=True)
class BatchSignal:
    """What the loss needs to know of a batch."""

    totals: BatchTotals
    """Over all ranks."""
    differs: bool
    """The loss is not TRL's own: a rollout could have been stopped, or a rule selects rows."""
    rows: Mapping[RowKey, RowSignal] | None
    """Tokens of a survivor of this rank -> its part of the loss; None where TRL's own advantages train."""

    def find(self, inputs: Inputs, row: int, trainer: TrainerLike) -> RowSignal:
        """Part of the loss of a row of TRL's batch; advantage 0 and weight 1 for a stopped one."""
        return (self.rows or {}).get(_key(inputs, row, trainer), STOPPED)

    def has_changed_advantages(self, inputs: Inputs, trainer: TrainerLike) -> bool:
        """Some row's advantage, which would be replaced, is not the one that TRL computes."""
        for row, advantage in enumerate(inputs["advantages"].tolist() if self.rows is not None else ()):
            least, most = self.find(inputs, row, trainer).trl_advantage
            slack = CHANGE_TOLERANCE * (1 + max(abs(least), abs(most)))
            if not least - slack <= advantage <= most + slack:
                return True
        return False

    def training_inputs(self, inputs: Inputs, trainer: TrainerLike) -> Inputs:
        """``inputs`` of the rows that train; the very same object where the loss is TRL's own."""
        if not self.differs:
            return inputs
        live_R = live_rows(inputs)
        advantage_R, weight_R = inputs["advantages"], torch.ones_like(inputs["advantages"])
        tokens_R = (inputs["completion_mask"] * inputs.get("tool_mask", 1)).sum(1)
        if self.rows is not None:
            found = [self.find(inputs, row, trainer)[:3] for row in range(len(live_R))]
            advantage_R, weight_R, trains_R = advantage_R.new_tensor(found).reshape(-1, 3).unbind(1)
            advantage_R = advantage_R * live_R
            # Masked rows stay for now: ranks may need them to reach equal row counts.
            inputs = {**inputs, "completion_mask": inputs["completion_mask"] * (trains_R != 0)[:, None]}
            live_R = live_R & (trains_R > 0)
        chosen_K = _equal_on_all_ranks(live_R, trainer)
        sizes = MicrobatchSizes(
            len(live_R), len(chosen_K), float(tokens_R[live_R].sum()), float((tokens_R * weight_R).sum())
        )
        factor = loss_factor(trainer.loss_type, self.totals, sizes)
        return keep_rows({**inputs, "advantages": advantage_R * factor}, chosen_K)


def rows_by_tokens(
    groups: Sequence[RewardedGroup],
    advantages: Sequence[GroupAdvantages],
    factors: Sequence[np.ndarray],
    replaced: Sequence[np.ndarray],
    pad: int | None,
) -> dict[RowKey, RowSignal]:
    """Tokens of a survivor -> its part; rows of equal tokens share their mean, which keeps their sum.

    Per group, ``factors`` are of :func:`arrol.integrations.trl.signal.thinning_factors`, and ``replaced`` are TRL's
    own advantages.
    """
    rows: dict[RowKey, list[tuple[float, float, float, float]]] = {}
    for rewarded, found, factor_G, trls_G in zip(groups, advantages, factors, replaced, strict=True):
        prompt = rewarded.group.prompt.token_ids
        values_G = np.stack([found.advantage_G * factor_G, found.weight_G, factor_G, trls_G], axis=1)
        for rollout, values in zip(rewarded.group.rollouts, values_G.tolist(), strict=True):
            if rollout.survived:
                rows.setdefault(row_key(prompt, rollout.completion.token_ids, pad), []).append(values)
    signals = {}
    for key, parts in rows.items():
        advantage, weight, factor, _ = np.mean(parts, axis=0).tolist()
        trls = [part[3] for part in parts]
        signals[key] = RowSignal(advantage, weight, weight * factor > 0, (min(trls), max(trls)))
    return signals


def _key(inputs: Inputs, row: int, trainer: TrainerLike) -> RowKey:
    prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist()
    return row_key(prompt, inputs["completion_ids"][row].tolist(), trainer.processing_class.pad_token_id)


def live_rows(inputs: Inputs) -> torch.Tensor:
    """bool ``[R]``: rows with a token in the loss."""
    mask = inputs["completion_mask"]
    return (mask * inputs["tool_mask"] if "tool_mask" in inputs else mask).any(1)


def keep_rows(inputs: Inputs, row_K: torch.Tensor) -> dict[str, torch.Tensor]:
    """The chosen rows of every tensor, without columns that are padding in all of them."""
    (rows, width), prompt_width = inputs["completion_mask"].shape, inputs["prompt_mask"].shape[1]
    longest = max(1, int(inputs["completion_mask"][row_K].sum(1).max()))
    longest_prompt = max(1, int(inputs["prompt_mask"][row_K].sum(1).max()))
    kept = {}
    for key, value in inputs.items():
        if torch.is_tensor(value) and value.ndim and len(value) == rows:
            value = value[row_K]
            if key.startswith("prompt_"):
                value = value[:, prompt_width - longest_prompt :]
            elif value.ndim == 2 and value.shape[1] == width:
                value = value[:, :longest]
        kept[key] = value
    return kept


def _equal_on_all_ranks(live_R: torch.Tensor, trainer: TrainerLike) -> torch.Tensor:
    """Live rows first, then dead ones up to the largest rank's count: TRL gathers values per row."""
    count = live_R.sum().clamp(min=1)
    if trainer.accelerator.num_processes > 1:
        count = trainer.accelerator.gather(count.view(1)).max()
    return torch.argsort((~live_R).int(), stable=True)[: int(count)]
