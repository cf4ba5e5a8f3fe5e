"""The engine that generates with the training model itself, in this process: every model that transformers runs with
full attention.

It computes features and does what the controller says; it knows no rule and no quality. Legend: ``S`` rows, ``D``
hidden size, ``V`` vocabulary, ``P`` prompts, ``T`` prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from arrol.configs.run import EngineConfig
from arrol.engines.embedded.attention import over_rows
from arrol.engines.embedded.batch import Batch
from arrol.engines.embedded.cache import PromptCache, RowCache, hidden_states
from arrol.engines.embedded.decoder import flat_decoder, wide_product
from arrol.engines.embedded.memory import cache_bytes
from arrol.engines.embedded.own_cache import OwnCache
from arrol.engines.embedded.support import (
    additive,
    compute_dtype,
    copy_of,
    keeps_every_key,
    logits_of,
    require_supported,
)
from arrol.protocols import Controller, Engine, More, Tokenizer
from arrol.quality.features import FeatureLayout
from arrol.types import Completion, GroupRequest, SamplingParams


class EmbeddedEngine(Engine):
    """Generates with a Hugging Face causal language model in this process; an :class:`arrol.protocols.Engine`."""

    def __init__(
        self,
        model: Any,
        config: EngineConfig,
        layout: FeatureLayout | None = None,
        *,
        shows_ends: bool = False,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        """With ``shows_ends`` every completion carries the features of its last fed token, under ``END``.

        ``tokenizer`` is needed for stop strings alone.
        """
        self.config, self.layout, self.tokenizer = config, layout, tokenizer
        self.shows_ends = shows_ends and layout is not None
        self._dtype = getattr(torch, config.dtype)
        self._source = model
        self.device = next(model.parameters()).device
        self.clock = 0
        """Decode steps that a controller was told of; never set back, since a controller may outlive a call."""
        self.most_rows = config.max_rows
        """Lowered for good when memory runs out."""
        require_supported(model)
        self._model = model if model.dtype == self._dtype else copy_of(model, self._dtype)
        self._needs_numbers = model.config._attn_implementation == "eager"
        self._flat = flat_decoder(self._model)
        dtype = compute_dtype(self._dtype, self.device)
        self._cache: RowCache | OwnCache
        if keeps_every_key(model):
            self._cache = RowCache(model.config.get_text_config(), device=self.device, dtype=dtype)
        else:
            self._cache = OwnCache(self._model, bytes_per_element=dtype.itemsize)

    def sync_weights(self) -> None:
        """Take over the learner's weights; free when both are the same object."""
        if self._model is self._source:
            return
        with torch.no_grad():
            for ours, theirs in zip(self._model.parameters(), self._source.parameters(), strict=True):
                ours.copy_(theirs)

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[GroupRequest],
        params: SamplingParams,
        *,
        seed: int,
        controller: Controller | None = None,
        more: More | None = None,
    ) -> list[list[Completion]]:
        """See :class:`arrol.protocols.Engine`; prompts must not be empty."""
        was_training = self._model.training
        self._model.eval()
        self.decode_steps = 0
        try:
            batch = Batch(self, requests, params, seed, controller, more)
            while batch.has_work:
                batch.advance()
            return batch.asked.completions()
        finally:
            self._model.train(was_training)
            if self.device.type == "cuda":  # the learner needs the memory; on a CPU a new allocation costs page faults
                self._cache.release()

    def begin(self) -> tuple[RowCache | OwnCache, int]:
        """The cache, empty, and the tokens that it may hold together with the prompts of one prefill pass."""
        held = self._cache.num_bytes
        most = cache_bytes(self.config.cache_gib, self.device, held=held)
        self._cache.clear()
        if held > most:
            self._cache.release()
        return self._cache, most // self._cache.bytes_per_token

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
        mask = additive(mask, self._dtype) if self._needs_numbers else mask
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
