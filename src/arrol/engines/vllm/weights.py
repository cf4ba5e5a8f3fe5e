"""The policy as a folder that vLLM loads, and reloads after each step.

A safetensors file in memory-backed storage reaches any number of worker processes without pickle or a device of its
own, and goes through vLLM's own reload, which also quantises. Moving weights between machines is up to TRL and verl.
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from arrol.configs.run import VllmEngineConfig
from arrol.engines.vllm.padding import head_size_of, padded_config, padded_size, padded_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS = "model.safetensors"
MEMORY = Path("/dev/shm")
"""Storage in memory, where it exists."""


class PolicyFolder:
    """Owns a temporary folder with ``config.json`` and weights; widens heads where vLLM needs it."""

    def __init__(self, policy: PreTrainedModel, config: VllmEngineConfig) -> None:
        self._policy, self._dtype = policy, getattr(torch, config.dtype)
        from arrol.engines.vllm.compat import known_head_sizes  # loads vLLM

        old = head_size_of(policy.config)
        self._head_size = padded_size(old, known_head_sizes(policy.device.type) or (old,))
        self.path = Path(tempfile.mkdtemp(prefix="arrol-policy-", dir=MEMORY if MEMORY.is_dir() else None))
        hosted = (
            padded_config(policy.config, self._head_size) if self._head_size != old else copy.deepcopy(policy.config)
        )
        hosted.tie_word_embeddings = False  # vLLM 0.32 reloads a tied output embedding without its new values
        hosted.architectures = [type(policy).__name__]  # absent from models that were never saved
        hosted.save_pretrained(self.path)

    def write(self) -> None:
        """Write the weights as they are now; readers of the old file keep it."""
        named = plain_weights(self._policy)
        if self._head_size != head_size_of(self._policy.config):
            named = padded_weights(named, self._policy.config, self._head_size)
        tensors = {name: tensor.detach().to("cpu", self._dtype, copy=True).contiguous() for name, tensor in named}
        save_file(tensors, self.path / f"{WEIGHTS}.new", metadata={"format": "pt"})
        os.replace(self.path / f"{WEIGHTS}.new", self.path / WEIGHTS)

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def plain_weights(model: PreTrainedModel) -> Iterable[tuple[str, torch.Tensor]]:
    """Names and weights as of the model without adapters: those of peft's LoRA are merged in copies."""
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    for name, weight in model.named_parameters(remove_duplicate=False):
        owner, _, leaf = name.rpartition(".base_layer.")
        layer: Any = layers.get(owner)
        if layer is None:
            if not any(name.startswith(f"{adapted}.") for adapted in layers):
                yield name, weight
            continue
        merged = weight.detach()
        for adapter in layer.active_adapters if leaf == "weight" else ():
            merged = merged + layer.get_delta_weight(adapter)
        yield f"{owner}.{leaf}", merged
