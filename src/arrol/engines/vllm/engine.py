"""VllmEngine: our engine protocol over vLLM's ``LLM``, for training and for evaluation.

Every rollout is a request of its own, with a seed of its own (a hash of the run's seed and the rollout's id), so its
tokens do not depend on its siblings; the prefix cache makes the shared prompt cheap. Before each step the policy and
the quality estimator are pushed together: weights as a safetensors file in memory-backed storage that vLLM reloads,
head and calibration by RPC. Judgements come back in ``stop_reason``, features by RPC.

Differences from the embedded engine: (1) log-probabilities are vLLM's, computed by other kernels than the learner's, so
set ``algorithm.importance_cap``; (2) at temperature 1 they are the model's, before top-k and top-p; at others they
include the temperature, and top-k and top-p are refused; (3) heads of a size that vLLM's CPU kernels do not know are
widened (``padding.py``); (4) the barrier counts vLLM's steps. Legend: ``F`` features, ``T`` tokens.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arrol.configs.run import SamplingConfig, VllmEngineConfig
from arrol.engines.vllm.remote import RemoteController
from arrol.engines.vllm.request import PREFIX, REFUSED, StopReport, pruning_args
from arrol.engines.vllm.weights import PolicyFolder
from arrol.errors import ArrolError, ConfigError
from arrol.protocols import Controller
from arrol.quality.estimator import QualityEstimator
from arrol.types import Completion, FinishReason, GroupRequest, PruningDecision, RolloutId, SamplingParams

QUIET = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
"""Set unless the environment says otherwise."""
CPU_ONLY = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""The same on a CPU: one process, which shares its threads with the learner."""


class VllmEngine:
    """Implements :class:`arrol.protocols.Engine`."""

    def __init__(
        self,
        policy: Any,
        config: VllmEngineConfig,
        sampling: SamplingConfig,
        *,
        estimator: QualityEstimator | None = None,
    ) -> None:
        """``sampling`` is that of training: it fixes which log-probabilities vLLM returns."""
        if config.sleep_level and policy.device.type == "cpu":
            raise ConfigError(f"engine.sleep_level = {config.sleep_level}: there is no sleep on a CPU; set it to 0")
        self._config, self._estimator = config, estimator
        self._pushed: int | None = None
        self._folder = PolicyFolder(policy, config)
        try:
            self._folder.write()
            self._llm = _start(self._folder.path, config, sampling, policy.device.type)
        except BaseException as error:  # a full memory should not stay full
            self._folder.close()
            if isinstance(error, ValueError) and not isinstance(error, ArrolError):  # how vLLM says no to a setting
                raise ConfigError(f"engine: vLLM refuses it ({_told(error)}); change the field of [engine]") from None
            raise

    def sync_weights(self) -> None:
        """Push policy, head and calibration; nothing may be generating."""
        self._folder.write()
        if self._config.sleep_level:
            self._llm.wake_up()
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(self._folder.path)})
        self._llm.reset_prefix_cache()
        self._push_estimator()

    def _push_estimator(self) -> None:
        if self._estimator is not None and self._estimator.version != self._pushed:
            self._llm.collective_rpc("arrol_set_estimator", args=(self._estimator.snapshot().to_bytes(),))
            self._pushed = self._estimator.version

    def generate(
        self,
        requests: Sequence[GroupRequest],
        params: SamplingParams,
        *,
        seed: int,
        controller: Controller | None = None,
        score_ends: bool = False,
    ) -> list[list[Completion]]:
        """See :class:`arrol.protocols.Engine`; a controller must be a :class:`RemoteController`.

        With ``score_ends`` every completion carries the head's score at its last fed token, for votes.
        """
        assert controller is None or isinstance(controller, RemoteController), type(controller)
        asked = [(request, rollout_id) for request in requests for rollout_id in request.rollout_ids]
        if score_ends or (controller is not None and controller.probe_tokens):
            self._push_estimator()
        answers = self._llm.generate(
            [{"prompt_token_ids": list(request.prompt.token_ids)} for request, _ in asked],
            [
                _sampling(
                    params, seed, rollout_id, _arguments(controller, request, rollout_id, len(requests), score_ends)
                )
                for request, rollout_id in asked
            ],
            use_tqdm=False,
        )
        features = self._features() if controller is not None and controller.probe_tokens else {}
        decisions: list[PruningDecision] = []
        done: dict[RolloutId, Completion] = {}
        for (_, rollout_id), answer in zip(asked, answers, strict=True):
            report = StopReport.parse(answer.outputs[0].stop_reason)
            done[rollout_id] = _completion(answer.outputs[0], report, features.get(tuple(rollout_id), {}))
            decision = None if report is None else report.decision(rollout_id)
            decisions += [] if decision is None else [decision]
        if controller is not None:
            controller.settle(requests, decisions)
        if self._config.sleep_level:
            self._llm.sleep(level=self._config.sleep_level)
        return [[done[rollout_id] for rollout_id in request.rollout_ids] for request in requests]

    def close(self) -> None:
        """End vLLM and remove what was written for it."""
        self._llm.llm_engine.engine_core.shutdown()
        self._folder.close()

    def _features(self) -> dict[tuple[int, ...], dict[int, np.ndarray]]:
        """Rollout id -> probe length -> float32 ``[F]``."""
        found: dict[tuple[int, ...], dict[int, np.ndarray]] = {}
        for answer in self._llm.collective_rpc("arrol_take_features"):
            rows = np.frombuffer(answer["features"], np.float32).reshape(len(answer["index"]), answer["size"])
            for (step, group, index, length), row in zip(answer["index"], rows, strict=True):
                found.setdefault((step, group, index), {})[length] = row.copy()
        return found


def rollout_seed(seed: int, rollout_id: RolloutId) -> int:
    """A seed of 63 bits per rollout, from the run's seed and the rollout's id alone."""
    text = ",".join(map(str, (seed, *rollout_id)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def _told(error: ValueError) -> str:
    """The line that says what is wrong; pydantic writes a heading first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[1] if len(lines) > 1 and "validation error" in lines[0] else lines[0]


def _arguments(
    controller: RemoteController | None, request: GroupRequest, rollout_id: RolloutId, num_groups: int, score_end: bool
) -> dict[str, Any]:
    asked = {} if controller is None else controller.arguments(request, rollout_id.index, num_groups=num_groups)
    if score_end and not asked:
        asked = pruning_args(group=request.group, size=request.size, index=rollout_id.index, rule="never")
    return {**asked, f"{PREFIX}score_end": 1} if score_end else asked


def _sampling(params: SamplingParams, seed: int, rollout_id: RolloutId, arguments: Mapping[str, Any]) -> Any:
    from vllm import SamplingParams as VllmSamplingParams

    return VllmSamplingParams(
        max_tokens=params.max_completion_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        seed=rollout_seed(seed, rollout_id),
        stop_token_ids=list(params.stop_token_ids),
        ignore_eos=True,  # ours are named above, and only ours
        logprobs=0,
        detokenize=False,
        extra_args=dict(arguments) or None,
    )


def _completion(output: Any, report: StopReport | None, features_at: dict[int, np.ndarray]) -> Completion:
    if str(output.stop_reason).startswith(f"{REFUSED}:"):
        raise ConfigError(str(output.stop_reason).partition(":")[2])
    tokens = tuple(output.token_ids)
    steps = zip(tokens, output.logprobs or (), strict=True)
    logprob_T = np.array([step[token].logprob for token, step in steps], np.float32)
    if report is not None and not report.keep:
        reason = FinishReason.PRUNED
    else:
        reason = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}.get(
            output.finish_reason, FinishReason.ERROR
        )
    if not np.isfinite(logprob_T).all():
        reason = FinishReason.ERROR
    return Completion(tokens, logprob_T, reason, features_at, math.nan if report is None else report.end_score)


def _start(folder: Path, config: VllmEngineConfig, sampling: SamplingConfig, device: str) -> Any:
    """vLLM's ``LLM`` with our two classes."""
    for key, value in {**QUIET, **(CPU_ONLY if device == "cpu" else {})}.items():
        os.environ.setdefault(key, value)
    if device == "cpu":
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, round(config.kv_cache_gib))))
    from arrol.engines.vllm import compat  # before vLLM's own import: one clear line when it is absent

    compat.require_supported()
    from vllm import LLM

    special: dict[str, Any] = {"gpu_memory_utilization": config.gpu_memory_frac}
    if device == "cpu":  # there, vLLM 0.32 crashes when a prompt with a seed of its own is fed in chunks
        special = {"enable_chunked_prefill": False}
    return LLM(
        str(folder),
        runner="generate",
        skip_tokenizer_init=True,
        use_tqdm_on_load=False,
        dtype=config.dtype,
        max_num_seqs=config.max_rows,
        tensor_parallel_size=config.tensor_parallel_size,
        enforce_eager=config.enforce_eager or device == "cpu",
        quantization=config.quantization,
        enable_sleep_mode=config.sleep_level > 0,
        logprobs_mode="raw_logprobs" if sampling.temperature == 1.0 else "processed_logprobs",
        scheduler_cls="arrol.engines.vllm.PruningScheduler",
        worker_cls="arrol.engines.vllm.PruningWorker",
        seed=0,
        **special,
    )
