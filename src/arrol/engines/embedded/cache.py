"""Which rollout lives in which row: a static key-value cache whose rows have lengths of their own.

Layout: per layer one tensor of keys and one of values, ``[S, H, W, K]``; memory is allocated once for ``max_rows`` and
the longest rollout and reused by later calls; it grows when more or longer rollouts come on the way. Rows ``0 ..
num_live - 1`` are live, the rest is free; row s holds tokens ``0 .. length_S[s] - 1`` at columns of the same numbers,
whatever its siblings do, so no padding exists and no position is shifted.

``W`` grows by ``GROWTH`` columns when the longest live row needs it, and a step attends to all of them. That keeps the
tensors dense: read as a slice of a wider tensor, the same columns took up to three times as long on a CPU, more than
the masked ones cost.

* ``fan_out``  a prompt's keys and values, computed once, are copied into the rows of its rollouts.
* ``compact``  rows that ended leave holes; the last live rows move into them, bit for bit, and nothing else is touched.
* ``wipe``     a row whose numbers are not finite is zeroed: a mask hides what is finite, but 0 times NaN is NaN.

To transformers it is a ``Cache``: in decoding, ``update`` writes one token per live row at the row's own length and
hands back the live part; in a prefill it keeps what it is given. Legend: ``S`` rows, ``H`` key-value heads, ``W``
columns, ``K`` head size, ``P`` prompts.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import Cache

GROWTH = 16
"""Columns added at a time: a move of everything costs about as much as attending a few steps."""


class PromptCache(Cache):
    """Keys and values of right-padded prompts, per layer ``[P, H, W, K]``; causal attention never looks at the
    padding.
    """

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
    """See the module."""

    def __init__(self, config: Any, max_rows: int, max_width: int, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(layers=[])
        heads = int(config.num_key_value_heads)
        size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        count = int(config.num_hidden_layers)
        self.max_rows, self.max_width = max_rows, max_width
        self.num_heads, self._size, self._columns = heads, size, 0
        cells = max_rows * heads * max_width * size
        self._spare = torch.zeros(cells, device=device, dtype=dtype)
        """Where the next tensor moves when columns are added; its old memory is the next spare."""
        self._memory = [torch.zeros(cells, device=device, dtype=dtype) for _ in range(2 * count)]
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self.num_live = 0
        self.length_S = torch.zeros(max_rows, dtype=torch.long, device=device)
        """Tokens held by each row."""
        self._rows = torch.arange(max_rows, device=device)
        self._places = torch.zeros(0, dtype=torch.long, device=device)
        self.clear()

    def clear(self) -> None:
        """Every row is free again; contents are left, since lengths hide them."""
        self.num_live = 0
        self._lay_out(min(GROWTH, self.max_width))

    def _widen(self, width: int) -> None:
        """At least this many columns."""
        assert width <= self.max_width, (width, self.max_width)
        if width > self._columns:
            self._lay_out(min(-(-width // GROWTH) * GROWTH, self.max_width))

    def _lay_out(self, columns: int) -> None:
        """Dense tensors of this many columns; live rows move along. What a free cell holds is always finite."""
        shape = (self.max_rows, self.num_heads, columns, self._size)
        cells, shared = self.max_rows * self.num_heads * columns * self._size, min(columns, self._columns)
        old = (*self._keys, *self._values)
        for number, memory in enumerate(self._memory if self.num_live else ()):
            moved = self._spare[:cells].view(shape)
            moved[: self.num_live, :, :shared] = old[number][: self.num_live, :, :shared]
            self._memory[number], self._spare = self._spare, memory
        tensors = [memory[:cells].view(shape) for memory in self._memory]
        self._keys, self._values = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        self._columns = columns

    def grow(self, max_rows: int, max_width: int) -> None:
        """Room for more rows or longer ones, one tensor at a time; live rows move along."""
        if (max_rows, max_width) == (self.max_rows, self.max_width):
            return
        assert max_rows >= self.max_rows, (max_rows, self.max_rows)
        assert max_width >= self.max_width, (max_width, self.max_width)
        cells = max_rows * self.num_heads * max_width * self._size
        shape = (max_rows, self.num_heads, self._columns, self._size)
        self._spare = self._spare.new_zeros(0)  # free the old one first
        for tensors, offset in ((self._keys, 0), (self._values, len(self._keys))):
            for layer, old in enumerate(tensors):
                memory = old.new_zeros(cells)
                moved = memory[: math.prod(shape)].view(shape)
                moved[: self.num_live] = old[: self.num_live]
                self._memory[offset + layer] = memory
                tensors[layer] = moved
        self._spare = self._spare.new_zeros(cells)
        more = torch.zeros(max_rows - self.max_rows, dtype=torch.long, device=self.length_S.device)
        self.length_S = torch.cat([self.length_S, more])
        self._rows = torch.arange(max_rows, device=self.length_S.device)
        self.max_rows, self.max_width = max_rows, max_width

    def fan_out(self, prompts: PromptCache, prompt: int, num_tokens: int, rows: slice) -> None:
        """Copy one prefilled prompt into fresh rows, which must follow the live ones."""
        assert rows.start == self.num_live, (rows, self.num_live)
        assert rows.stop <= self.max_rows, (rows, self.max_rows)
        self._widen(num_tokens)
        for layer in range(len(self._keys)):
            self._keys[layer][rows, :, :num_tokens] = prompts.keys[layer][prompt, :, :num_tokens]
            self._values[layer][rows, :, :num_tokens] = prompts.values[layer][prompt, :, :num_tokens]
        self.length_S[rows] = num_tokens
        self.num_live = rows.stop

    def compact(self, sources: torch.Tensor, holes: torch.Tensor, num_live: int, width: int) -> None:
        """Move row ``sources[i]`` to ``holes[i]``; afterwards ``num_live`` rows are live. ``width`` covers every moved
        row.
        """
        for tensor in (*self._keys, *self._values):
            tensor[holes, :, :width] = tensor[sources, :, :width]
        self.length_S[holes] = self.length_S[sources]
        self.num_live = num_live

    def wipe(self, rows: torch.Tensor) -> None:
        """Forget what these rows held, so that whoever lives there next cannot be poisoned by it."""
        for tensor in (*self._keys, *self._values):
            tensor[rows] = 0

    def begin_step(self, width: int) -> torch.Tensor:
        """Announce a decode step of all live rows; returns its attention mask, bool ``[S, 1, 1, W]``.

        ``width`` is one more than the longest live row: the new token takes the column after the last.
        """
        self._widen(width)
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
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        keys.view(-1, self._size).index_copy_(0, self._places, key_states.reshape(-1, self._size))
        values.view(-1, self._size).index_copy_(0, self._places, value_states.reshape(-1, self._size))
        return keys[: self.num_live], values[: self.num_live]
