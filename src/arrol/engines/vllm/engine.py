"""VllmEngine: our engine protocol over vLLM's ``LLM``, for training and evaluation.

Before each step policy, head and calibration are pushed together: weights as a safetensors file in memory-backed
storage that vLLM reloads, head and calibration by RPC. ``sampler.py`` generates.

Differences from the embedded engine: (1) log-probabilities come from other kernels than the learner's, so set
``algorithm.importance_cap``; at temperature 1 they are the model's before top-k and top-p, at others they include the
temperature, and top-k and top-p are refused; (2) heads of a size that vLLM's CPU kernels do not know are widened
(``padding.py``); (3) the barrier counts vLLM's steps.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arrol.configs.run import SamplingConfig, VllmEngineConfig
from arrol.engines.vllm.remote import RemoteController
from arrol.engines.vllm.sampler import LlmSampler
from arrol.engines.vllm.weights import PolicyFolder
from arrol.errors import ArrolError, ConfigError
from arrol.protocols import Controller, Engine, More
from arrol.quality.estimator import QualityEstimator
from arrol.types import Completion, GroupRequest, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from vllm import LLM

QUIET = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
"""Defaults of environment variables."""
CPU_ONLY = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""The same on a CPU: one process, which shares its threads with the learner."""


class VllmEngine(Engine):
    """See the module."""

    def __init__(
        self,
        policy: PreTrainedModel,
        config: VllmEngineConfig,
        sampling: SamplingConfig,
        *,
        estimator: QualityEstimator | None = None,
    ) -> None:
        """``sampling`` is that of training: it fixes which log-probabilities vLLM returns."""
        if config.sleep_level and policy.device.type == "cpu":
            raise ConfigError(f"engine.sleep_level = {config.sleep_level}: vLLM cannot sleep on a CPU; set it to 0")
        self._config = config
        self._folder = PolicyFolder(policy, config)
        try:
            self._folder.write()
            self._llm = _start(self._folder.path, config, sampling, policy.device.type)
        except BaseException as error:  # free the memory-backed storage
            self._folder.close()
            if isinstance(error, ValueError) and not isinstance(error, ArrolError):  # vLLM refuses a setting
                raise ConfigError(f"engine: vLLM refuses it ({_told(error)}); change the field of [engine]") from None
            raise
        self._sampler = LlmSampler(self._llm, estimator)

    def sync_weights(self) -> None:
        """Push policy, head and calibration; no request may be running."""
        self._folder.write()
        if self._config.sleep_level:
            self._llm.wake_up()
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(self._folder.path)})
        self._llm.reset_prefix_cache()
        self._sampler.push_estimator()

    def generate(
        self,
        requests: Sequence[GroupRequest],
        params: SamplingParams,
        *,
        seed: int,
        controller: Controller | None = None,
        more: More | None = None,
        score_ends: bool = False,
    ) -> list[list[Completion]]:
        """As :meth:`LlmSampler.generate`; a controller must be a :class:`RemoteController`."""
        assert controller is None or isinstance(controller, RemoteController), type(controller)
        written = self._sampler.generate(
            requests, params, seed=seed, controller=controller, more=more, score_ends=score_ends
        )
        if self._config.sleep_level:
            self._llm.sleep(level=self._config.sleep_level)
        return written

    def close(self) -> None:
        """End vLLM and remove its folder."""
        self._llm.llm_engine.engine_core.shutdown()
        self._folder.close()


def _told(error: ValueError) -> str:
    """The line that says what is wrong; pydantic writes a heading first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[1] if len(lines) > 1 and "validation error" in lines[0] else lines[0]


def _start(folder: Path, config: VllmEngineConfig, sampling: SamplingConfig, device: str) -> LLM:
    """vLLM's ``LLM`` with our two classes."""
    is_cpu = device == "cpu"
    for key, value in {**QUIET, **(CPU_ONLY if is_cpu else {})}.items():
        os.environ.setdefault(key, value)
    if is_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, round(config.kv_cache_gib))))
    from arrol.engines.vllm import compat  # before vLLM's own import: one clear line when it is absent

    compat.require_supported()
    from vllm import LLM

    special: dict[str, Any] = {"gpu_memory_utilization": config.gpu_memory_frac}
    if is_cpu:  # there, vLLM 0.32 crashes when a prompt with a seed of its own is fed in chunks
        special = {"enable_chunked_prefill": False}
    return LLM(
        str(folder),
        runner="generate",
        skip_tokenizer_init=True,
        use_tqdm_on_load=False,
        dtype=config.dtype,
        max_num_seqs=config.max_rows,
        tensor_parallel_size=config.tensor_parallel_size,
        enforce_eager=config.enforce_eager or is_cpu,
        quantization=config.quantization,
        enable_sleep_mode=config.sleep_level > 0,
        logprobs_mode="raw_logprobs" if sampling.temperature == 1.0 else "processed_logprobs",
        scheduler_cls="arrol.engines.vllm.PruningScheduler",
        worker_cls="arrol.engines.vllm.PruningWorker",
        seed=0,
        **special,
    )
