"""The policy in this process instead of a vLLM server: an engine, and the end of TRL's weight transfer.

For a laptop, for tests, and for one machine without vLLM. It holds a copy of the weights, so that the trainer may
change its own while rollouts are written. Weights are swapped between two batches: each batch has one version.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import torch
from transformers import AutoModelForCausalLM

from arrol.configs.base import validate
from arrol.configs.run import EngineConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.integrations.trl.rules import cache_budget
from arrol.protocols import Controller, Engine, More
from arrol.quality.features import FeatureLayout
from arrol.types import Completion, GroupRequest, SamplingParams


class LocalPolicy(Engine):
    """Pass ``engine=policy.engine`` to the worker and ``weight_transfer=policy`` to the trainer.

    ``bf16``: sample under bfloat16 autocast, as a trainer with ``bf16=True`` computes its loss.
    """

    def __init__(self, model: str, *, bf16: bool = False, cache_gib: float | str | None = None) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False, use_safetensors=True
        )
        self._model.requires_grad_(False).to(torch.device(device))  # type: ignore[arg-type]  # a decorator hides self
        self._device, self._bf16, self._cache_gib = device, bf16, cache_budget(cache_gib)
        self._swapping = threading.Lock()
        self._engine: EmbeddedEngine | None = None

    def engine(self, layout: FeatureLayout) -> LocalPolicy:
        """This policy as an engine whose probes have ``layout``."""
        self._engine = EmbeddedEngine(self._model, validate(EngineConfig, {"cache_gib": self._cache_gib}), layout)
        return self

    def generate(
        self,
        requests: Sequence[GroupRequest],
        params: SamplingParams,
        *,
        seed: int,
        controller: Controller | None = None,
        more: More | None = None,
    ) -> list[list[Completion]]:
        """See :class:`arrol.protocols.Engine`; new weights wait until it returns."""
        assert self._engine is not None, "the worker calls engine() first"
        with self._swapping, torch.autocast(self._device, torch.bfloat16, enabled=self._bf16):
            return self._engine.generate(requests, params, seed=seed, controller=controller, more=more)

    def init_weight_transfer(self) -> None:
        """Nothing to set up: weights are copied inside this process."""

    def pause(self) -> None:
        """Wait for the end of the batch that is being written."""
        self._swapping.acquire()

    @torch.no_grad()
    def send_weights(self, iterator: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Copy the trainer's weights, by name."""
        mine = dict(self._model.named_parameters())
        for name, weight in iterator:
            mine[name].copy_(weight)

    def resume(self) -> None:
        """Let the next batch begin."""
        self._swapping.release()

    def destroy(self) -> None:
        """Nothing is held outside this process."""
