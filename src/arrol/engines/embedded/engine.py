"""The engine that generates with the training model itself, in this process: every model that transformers runs with
full attention.

It computes features and does what the controller says; it knows no rule and no quality.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from arrol.configs.run import EngineConfig
from arrol.engines.embedded.batch import Batch
from arrol.engines.embedded.cache import RowCache
from arrol.engines.embedded.memory import cache_bytes
from arrol.engines.embedded.own_cache import OwnCache
from arrol.engines.embedded.steps import ModelSteps
from arrol.engines.embedded.support import compute_dtype, copy_of
from arrol.protocols import Controller, Engine, More, Tokenizer
from arrol.quality.features import FeatureLayout
from arrol.types import Completion, GroupRequest, SamplingParams

logger = logging.getLogger(__name__)


class EmbeddedEngine(ModelSteps, Engine):
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
        super().__init__(model)
        self.config, self.layout, self.tokenizer = config, layout, tokenizer
        self.shows_ends = shows_ends and layout is not None
        self._dtype = getattr(torch, config.dtype)
        self._source = model
        self.clock = 0
        """Decode steps that a controller was told of; never set back, since a controller may outlive a call."""
        self.most_rows = config.max_rows
        """Lowered for good when memory runs out."""
        self._has_said_rows = False
        has_rows = self.runs_in_rows()
        if model.dtype != self._dtype:
            self._bind(copy_of(model, self._dtype))
        self._cache: RowCache | OwnCache
        if has_rows:
            self._cache = self.row_cache()
        else:
            self._cache = OwnCache(self._model, bytes_per_element=compute_dtype(self._dtype, self.device).itemsize)

    def say_rows(self, rows: int, width: int) -> None:
        """Tell once that fewer rollouts decode at a time than could."""
        if not self._has_said_rows:
            logger.warning(
                "arrol: the free memory is enough for %d rows of %d tokens; the embedded engine goes on with %d rows",
                rows, width, rows,
            )  # fmt: skip
        self._has_said_rows = True

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
