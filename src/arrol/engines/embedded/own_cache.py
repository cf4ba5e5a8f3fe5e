"""The model's own key-value cache for a decode batch: sliding windows, linear attention, any attention mask.

Layers that do not keep every key have no place for a row of another length (:class:`RowCache`). Here rows start
together from left-padded prompts, as in ``model.generate``; rows that end leave at once, and waiting rollouts start
when all rows have left. Legend: ``S`` rows, ``P`` prompts, ``W`` columns, ``D`` hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from arrol.engines.embedded.cache import hidden_states
from arrol.engines.embedded.trial import tried


class OwnCache:
    """Rows of one pass; the same calls as :class:`RowCache` where a batch makes them."""

    def __init__(self, model: Any, *, bytes_per_element: int) -> None:
        self._model, config = model, model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.bytes_per_token = 2 * int(config.num_hidden_layers * heads * size) * bytes_per_element
        """An upper bound: sliding windows keep less."""
        self.most_tokens = 0
        """Rows times columns that a pass may have."""
        self.clear()

    @property
    def num_bytes(self) -> int:
        """Kept between calls."""
        return 0

    def clear(self) -> None:
        """Free every row and its memory."""
        self.num_live = 0
        self._cache: Any = None
        self._mask_SW = torch.zeros(0, 0, dtype=torch.long)

    release = clear

    def start(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> torch.Tensor:
        """Begin a pass: so many rows of each prompt. Returns hidden states ``[P, D]`` of the prompts' last tokens."""
        self.clear()
        device, longest = self._model.device, max(map(len, prompts))
        padded = [[0] * (longest - len(prompt)) for prompt in prompts]
        ids_PW = torch.tensor([[*zeros, *prompt] for zeros, prompt in zip(padded, prompts, strict=True)], device=device)
        mask_PW = torch.tensor([[0] * len(zeros) + [1] * (longest - len(zeros)) for zeros in padded], device=device)
        cache = DynamicCache(config=self._model.config.get_text_config())
        hidden_PD = self._forward(ids_PW, mask_PW, (mask_PW.cumsum(-1) - 1).clamp(min=0), cache)
        self._cache, self._mask_SW = cache, mask_PW
        self._select(torch.arange(len(prompts), device=device).repeat_interleave(torch.tensor(copies, device=device)))
        return hidden_PD

    def step(self, token_S: torch.Tensor) -> torch.Tensor:
        """Feed one token to every row; hidden states ``[S, D]``."""
        mask_SW = torch.cat([self._mask_SW, self._mask_SW.new_ones(self.num_live, 1)], dim=1)
        hidden_SD = self._forward(token_S[:, None], mask_SW, self._mask_SW.sum(-1, keepdim=True), self._cache)
        self._mask_SW = mask_SW
        return hidden_SD

    def compact(self, sources: torch.Tensor, holes: torch.Tensor, num_live: int, width: int) -> None:
        """Move row ``sources[i]`` to ``holes[i]``; afterwards ``num_live`` rows are live."""
        rows_S = torch.arange(num_live, device=self._mask_SW.device)
        rows_S[holes] = sources
        self._select(rows_S)

    def shrink(self, num_live: int) -> int:
        """Memory ran out within a step, so the layers differ: no row stays. Returns the number of rows left."""
        self.clear()
        return 0

    def wipe(self, rows: torch.Tensor) -> None:
        """Nothing: rows that are not finite leave together with their memory."""

    def _select(self, rows_S: torch.Tensor) -> None:
        self.num_live = len(rows_S)
        if not self.num_live:
            self.clear()
            return
        self._cache.reorder_cache(rows_S)
        self._mask_SW = self._mask_SW[rows_S]

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        return hidden_states(self._model, ids, mask, positions, cache)[:, -1]


def agrees(model: Any) -> bool:
    """Padded, copied and compacted rows give the hidden states of the model without a cache."""

    def step_twice(prompts: Sequence[Sequence[int]], first_3: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        cache = OwnCache(model, bytes_per_element=4)
        cache.start(prompts, [2, 1])
        cache.step(first_3)
        cache.compact(moved[1:], moved[:1], 2, 0)
        return cache.step(first_3[[2, 1]])

    return tried(model, step_twice)
