"""What the embedded engine asks of a model: prompts in one pass, then one token of every row at a time.

Legend: ``S`` rows, ``D`` hidden size, ``V`` vocabulary, ``P`` prompts, ``T`` prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from arrol.engines.embedded.attention import over_rows
from arrol.engines.embedded.cache import PromptCache, RowCache, hidden_states
from arrol.engines.embedded.decoder import flat_decoder, wide_product
from arrol.engines.embedded.own_cache import OwnCache
from arrol.engines.embedded.support import (
    additive,
    compute_dtype,
    keeps_every_key,
    logits_of,
    require_own_cache,
    require_plain_head,
)
from arrol.engines.embedded.trial import tried


class ModelSteps:
    """The passes of one model."""

    def __init__(self, model: Any) -> None:
        self.device = next(model.parameters()).device
        self._bind(model)

    def _bind(self, model: Any) -> None:
        self._model, self._needs_numbers = model, model.config._attn_implementation == "eager"
        self._flat = flat_decoder(model)

    def runs_in_rows(self) -> bool:
        """True where rows of :class:`RowCache` give the hidden states of the model without a cache, False where its own
        cache does; ModelError where neither does, or the logits are not those of its last hidden state."""
        require_plain_head(self._model)
        if keeps_every_key(self._model) and tried(self._model, self._step_twice):
            return True
        require_own_cache(self._model)
        return False

    def row_cache(self) -> RowCache:
        """An empty one, in the precision of the model or of the autocast in force."""
        config, dtype = self._model.config.get_text_config(), self._model.dtype
        return RowCache(config, device=self.device, dtype=compute_dtype(dtype, self.device))

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[PromptCache, torch.Tensor]:
        """Keys and values of prompts, and logits ``[P, V]`` behind the last token of each."""
        longest = max(map(len, prompts))
        ids_PT = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids_PT[row, : len(prompt)] = torch.tensor(prompt)
        cache, columns = PromptCache(), torch.arange(longest, device=self.device)
        causal = (columns[None, :] <= columns[:, None])[None, None]
        hidden = self.decoder(ids_PT.to(self.device), columns[None, :], causal, cache)
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self.device)
        return cache, self.logits(hidden[torch.arange(len(prompts), device=self.device), last])

    def decoder(self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, cache: Any) -> torch.Tensor:
        """Hidden states after the final norm; ``mask`` is true where attention may look."""
        mask = additive(mask, self._model.dtype) if self._needs_numbers else mask
        return hidden_states(self._model, ids, mask, positions, cache)

    def step(self, token_S: torch.Tensor, cache: RowCache | OwnCache, width: int) -> torch.Tensor:
        """Feed one token to every live row; ``width`` is one more than the longest holds. Hidden states ``[S, D]``."""
        if isinstance(cache, OwnCache):
            return cache.step(token_S)
        mask, positions_S = cache.begin_step(width), cache.length_S[: cache.num_live]
        if self._flat:
            hidden_SD = self._flat(token_S, positions_S, over_rows(cache, mask, self._flat.scaling))
        else:
            hidden_SD = self.decoder(token_S[:, None], positions_S[:, None], mask, cache)[:, -1]
        cache.end_step()
        return hidden_SD

    def logits(self, hidden_SD: torch.Tensor) -> torch.Tensor:
        """Logits ``[S, V]`` of the model."""
        if self._flat:
            return wide_product(self._model.get_output_embeddings(), hidden_SD)
        return logits_of(self._model, hidden_SD)

    def _step_twice(self, prompts: Sequence[Sequence[int]], first_3: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        """See :data:`arrol.engines.embedded.trial.StepTwice`."""
        cache, width = self.row_cache(), max(map(len, prompts)) + 1
        prefilled, _ = self.prefill(prompts)
        for place, rows in enumerate((slice(0, 2), slice(2, 3))):
            cache.fan_out(prefilled, place, len(prompts[place]), rows)
        self.step(first_3, cache, width)
        cache.compact(moved[1:], moved[:1], 2, width)
        return self.step(first_3[[2, 1]], cache, width + 1)


def require_supported(model: Any) -> None:
    """ModelError for a model that this engine would not run as transformers does."""
    ModelSteps(model).runs_in_rows()
