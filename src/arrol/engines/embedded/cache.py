"""The key-value cache of the decode batch: one row per rollout, each with a length of its own.

Layout: per layer one dense tensor of keys and one of values, ``[S, H, W, K]``. Rows ``0 .. num_live - 1`` are live, the
rest is free; row s holds tokens ``0 .. length_S[s] - 1`` at the columns of these numbers, so no padding exists.

Memory follows the rows and columns in use (``reserve``): ``W`` grows by ``GROWTH`` columns when the longest live row
needs it, and allocations grow by the factor ``AMORTISED``. A step attends to all ``W`` columns: read as a slice of a
wider tensor, the same columns took up to three times as long on a CPU.

To transformers it is a ``Cache``: in decoding, ``update`` writes one token per live row at the row's own length and
returns the live part; in a prefill it keeps what it is given. Legend: ``S`` rows, ``H`` key-value heads, ``W`` columns,
``K`` head size, ``P`` prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache as cached
from inspect import signature
from typing import Any

import torch
from transformers import Cache

from arrol.engines.embedded.memory import RanOut

GROWTH = 16
"""Columns added at a time: a move of all rows costs about as much as attending a few steps."""
AMORTISED = 1.5
"""Least factor by which a tensor's memory grows, within ``most_tokens``."""


def columns_for(width: int) -> int:
    """Columns of a tensor that holds rows of this many tokens."""
    return -(-width // GROWTH) * GROWTH


@cached
def cache_keyword(forward: Callable[..., object]) -> str:
    """``cache`` from transformers 5.24 on, before it and in a model's own code ``past_key_values``."""
    return "cache" if "cache" in signature(forward).parameters else "past_key_values"


def hidden_states(model: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any) -> Any:
    """Hidden states ``[S, T, D]`` after the final norm; ``cache`` grows by the ``T`` tokens."""
    base = model.base_model
    given = {cache_keyword(type(base).forward): cache}
    return base(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, **given).last_hidden_state


class PromptCache(Cache):
    """Keys and values of right-padded prompts, per layer ``[P, H, W, K]``; causal attention never sees the padding."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert layer_idx == len(self.keys), "layers are prefilled in order, once"
        self.keys.append(key_states)
        self.values.append(value_states)
        return key_states, value_states


class RowCache(Cache):
    """Keys and values of the live rows; an error for want of memory loses no live row."""

    def __init__(self, config: Any, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(layers=[])
        self.num_heads = int(config.num_key_value_heads)
        self._size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        self._num_layers = int(config.num_hidden_layers)
        self._empty = torch.zeros(0, device=device, dtype=dtype)
        self.most_tokens = 0
        """Rows times columns up to which an allocation may be larger than what is needed now."""
        self.length_S = torch.zeros(0, dtype=torch.long, device=device)
        """Tokens held by each row."""
        self._rows, self._places = self.length_S, self.length_S
        self.release()

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one row and column, with its share of the spare tensor."""
        return (2 * self._num_layers + 1) * self.num_heads * self._size * self._empty.element_size()

    @property
    def num_bytes(self) -> int:
        """Allocated now."""
        return sum(memory.nbytes for memory in (*self._memory, self._spare))

    def release(self) -> None:
        """Free every row and all memory."""
        self._spare = self._empty
        """Where the next tensor moves when columns are added; its old memory is the next spare."""
        self._memory = [self._empty] * (2 * self._num_layers)
        self._tensors = [self._empty.view(0, self.num_heads, 0, self._size)] * (2 * self._num_layers)
        """Keys of all layers, then values: dense views of the memory."""
        self.clear()

    def clear(self) -> None:
        """Free every row and keep the memory."""
        self.num_live = self.num_rows = self._columns = 0

    def reserve(self, rows: int, width: int) -> None:
        """Room for this many rows of this many tokens; live rows move along."""
        columns = max(self._columns, columns_for(width))
        if rows <= self.num_rows and columns == self._columns:
            return
        if not self.num_live and self._memory[-1].numel() < rows * self.num_heads * columns * self._size:
            self.release()  # nothing has to move, so the old memory is free before more is taken
        self._columns = 0  # tensors differ until all have moved
        for number in range(len(self._tensors)):
            self._lay_out(number, max(rows, self.num_live), columns)
        self._columns, self.num_rows = columns, min(tensor.shape[0] for tensor in self._tensors)
        if self.num_rows > len(self.length_S):
            self.length_S = torch.cat([self.length_S, self.length_S.new_zeros(self.num_rows - len(self.length_S))])
            self._rows = torch.arange(self.num_rows, device=self.length_S.device)

    def _lay_out(self, number: int, rows: int, columns: int) -> None:
        """One tensor of so many rows and columns; a free cell always holds a finite number."""
        old, memory = self._tensors[number], self._memory[number]
        if old.shape[2] == columns and old.shape[0] >= rows:
            return
        cells = self.num_heads * columns * self._size
        target = self._spare if self.num_live else memory
        if target.numel() < rows * cells:
            most = min(int(AMORTISED * memory.numel()), self.most_tokens * self.num_heads * self._size)
            with RanOut() as ran_out:
                target = self._empty.new_zeros(max(rows * cells, most))
            if ran_out:
                target = self._empty.new_zeros(rows * cells)
        fitting = target.numel() // cells
        moved = target[: fitting * cells].view(fitting, self.num_heads, columns, self._size)
        if self.num_live:
            shared = min(columns, old.shape[2])
            moved[: self.num_live, :, :shared] = old[: self.num_live, :, :shared]
            if target is self._spare or memory.numel() > self._spare.numel():
                self._spare = memory
        self._memory[number], self._tensors[number] = target, moved

    def shrink(self, num_live: int) -> int:
        """Keep so many rows and give back the memory of the others, as far as copies fit. Returns the rows left."""
        self.num_live = num_live
        with RanOut():
            self.trim()
        return num_live

    def trim(self) -> None:
        """Give back the memory of free rows."""
        self._spare = self._empty
        for number, tensor in enumerate(self._tensors):
            kept = tensor[: self.num_live].clone()
            self._memory[number], self._tensors[number] = kept.view(-1), kept
        self.num_rows = self.num_live

    def fan_out(self, prompts: PromptCache, prompt: int, num_tokens: int, rows: slice) -> None:
        """Copy the keys and values of one prefilled prompt into fresh rows, which must follow the live ones."""
        assert rows.start == self.num_live, (rows, self.num_live)
        self.reserve(rows.stop, num_tokens)
        for tensor, source in zip(self._tensors, (*prompts.keys, *prompts.values), strict=True):
            tensor[rows, :, :num_tokens] = source[prompt, :, :num_tokens]
        self.length_S[rows] = num_tokens
        self.num_live = rows.stop

    def compact(self, sources: torch.Tensor, holes: torch.Tensor, num_live: int, width: int) -> None:
        """Move row ``sources[i]`` to ``holes[i]``, bit for bit; afterwards ``num_live`` rows are live.

        ``width`` covers every moved row.
        """
        self.num_live = num_live
        if not len(sources):
            return
        for tensor in self._tensors:
            tensor[holes, :, :width] = tensor[sources, :, :width]
        self.length_S[holes] = self.length_S[sources]

    def wipe(self, rows: torch.Tensor) -> None:
        """Zero rows whose numbers are not finite: for the next rollout in the row a mask is not enough, 0 times NaN is
        NaN.
        """
        for tensor in self._tensors:
            tensor[rows] = 0

    def begin_step(self, width: int) -> torch.Tensor:
        """Announce a decode step of all live rows; returns its attention mask, bool ``[S, 1, 1, W]``.

        ``width`` is one more than the longest live row: the new token takes the column after the last.
        """
        self.reserve(self.num_live, width)
        length_S = self.length_S[: self.num_live]
        heads = torch.arange(self.num_heads, device=length_S.device)
        first_SH = (self._rows[: self.num_live, None] * self.num_heads + heads) * self._columns
        self._places = (first_SH + length_S[:, None]).flatten()
        return (torch.arange(self._columns, device=length_S.device) <= length_S[:, None])[:, None, None, :]

    def end_step(self) -> None:
        """The fed tokens now belong to their rows."""
        self.length_S[: self.num_live] += 1

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self._tensors[layer_idx], self._tensors[self._num_layers + layer_idx]
        for tensor, states in ((keys, key_states), (values, value_states)):  # autocast turns keys in float32
            tensor.view(-1, self._size).index_copy_(0, self._places, states.reshape(-1, self._size).to(tensor.dtype))
        return keys[: self.num_live], values[: self.num_live]
