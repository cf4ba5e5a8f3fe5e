"""Every line that depends on vLLM's version, and the refusal when a seam is missing.

Seams: two class slots (``scheduler_cls``, ``worker_cls``), ``finish_requests``, ``EngineCoreOutput``, and one private
field, the runner's ``execute_model_state``, which lives between ``execute_model`` and ``sample_tokens``. Both runners
have it, the first (``v1/worker/gpu_model_runner.py``) and the second (``v1/worker/gpu/model_runner.py``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from arrol.errors import ConfigError, MissingExtraError

try:
    import vllm
    from vllm.logger import init_logger
    from vllm.platforms import current_platform
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.engine import EngineCoreOutput as EngineCoreOutput
    from vllm.v1.engine import EngineCoreOutputs as EngineCoreOutputs
    from vllm.v1.engine import FinishReason as FinishReason
    from vllm.v1.outputs import AsyncModelRunnerOutput as AsyncModelRunnerOutput
    from vllm.v1.request import RequestStatus as RequestStatus
except ImportError as error:
    raise MissingExtraError(
        f"engine = 'vllm': vLLM could not be loaded ({error}); run: pip install '.[vllm]' in a checkout of arrol, "
        "or use the embedded engine"
    ) from None

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.request import Request

logger = init_logger("vllm.arrol")
"""Ours in vLLM's log: its handlers show only loggers below ``vllm``."""
SUPPORTED = (0, 22), (0, 34)
"""First supported release and first unsupported one."""
ANY_VERSION = "ARROL_VLLM_ANY_VERSION"
"""Environment variable that waives the check of the version, not that of the seams."""


def _platform_worker() -> Any:
    """vLLM replaces only the worker named "auto" by the platform's, so ours derives from the platform's."""
    if current_platform.is_cpu():
        from vllm.v1.worker.cpu_worker import CPUWorker as Worker
    elif current_platform.is_xpu():
        from vllm.v1.worker.xpu_worker import XPUWorker as Worker
    else:
        from vllm.v1.worker.gpu_worker import Worker
    return Worker


PlatformWorker = _platform_worker()


def require_supported() -> None:
    """ConfigError for an unknown release or a missing seam."""
    numbers = vllm.__version__.split("+")[0].split(".")[:2]
    version = tuple(int(number) for number in numbers if number.isdigit())
    if not SUPPORTED[0] <= version < SUPPORTED[1] and os.environ.get(ANY_VERSION) != "1":
        first, last = (".".join(map(str, bound)) for bound in SUPPORTED)
        raise ConfigError(
            f"vllm = {vllm.__version__}: not known to work; install vllm>={first},<{last}, "
            f"or set {ANY_VERSION}=1 to try"
        )
    seams = [(AsyncScheduler, name) for name in ("finish_requests", "update_from_output")]
    for owner, name in [*seams, (PlatformWorker, "sample_tokens"), (PlatformWorker, "execute_model")]:
        if not callable(getattr(owner, name, None)):
            raise ConfigError(f"vllm = {vllm.__version__}: {owner.__name__} has no {name}; install a supported release")


def require_scheduler(vllm_config: VllmConfig, *, reads_hidden_states: bool) -> None:
    """ConfigError for settings under which scores or decisions would be wrong without a sign."""
    require_supported()
    parallel = vllm_config.parallel_config
    if parallel.distributed_executor_backend == "external_launcher" and parallel.world_size > 1:
        raise ConfigError(
            "distributed_executor_backend = 'external_launcher': every rank would decide for itself; "
            "use 'mp' or 'ray', or tensor_parallel_size 1"
        )
    context = getattr(parallel, "prefill_context_parallel_size", 1)
    if context > 1:
        raise ConfigError(f"prefill_context_parallel_size = {context}: reorders rows between ranks; set it to 1")
    mode = vllm_config.model_config.logprobs_mode
    if mode.endswith("_logits"):
        raise ConfigError(
            f"logprobs_mode = {mode!r}: logits would be read as log-probabilities; "
            "set raw_logprobs or processed_logprobs"
        )
    runner = vllm_config.model_config.runner_type
    if runner != "generate":
        raise ConfigError(f"runner = {runner!r}: only generation can be pruned; leave scheduler_cls out")
    speculative = vllm_config.speculative_config is not None
    if reads_hidden_states and speculative and vllm_config.scheduler_config.async_scheduling:
        raise ConfigError(
            "async_scheduling = True: with speculative decoding the scheduler counts drafts it cannot judge; "
            "set async_scheduling=False, or use ConfidenceScheduler"
        )


def require_worker(worker: Any) -> None:
    """ConfigError when the runner lacks the state between forward pass and sampling."""
    if not hasattr(worker.model_runner, "execute_model_state"):
        raise ConfigError(
            f"vllm = {vllm.__version__}: {type(worker.model_runner).__name__} has no execute_model_state; "
            "use ConfidenceScheduler, which needs no worker, or install a supported release"
        )


def is_output_rank(worker: Any) -> bool:
    """Whether this worker's outputs reach the scheduler."""
    from vllm.distributed.parallel_state import get_pp_group, get_tp_group

    return bool(get_pp_group().is_last_rank and get_tp_group().rank_in_group == 0)


def data_parallel_rank(vllm_config: VllmConfig) -> int:
    """Rank of this engine; vLLM sets ``data_parallel_rank`` back to 0 where the ranks are independent."""
    parallel = vllm_config.parallel_config
    return int(getattr(parallel, "data_parallel_index", parallel.data_parallel_rank))


def is_streamed(request: Request) -> bool:
    """Whether more pieces of the prompt may come."""
    return bool(getattr(request, "resumable", False))


@dataclass(frozen=True)
class StepRows:
    """Hidden states of the forward pass that has just run."""

    hidden_ND: torch.Tensor
    """After the final norm, one row per scheduled token."""
    first_row: Mapping[str, int]
    """Request -> its first row."""


def step_rows(worker: Any, request_ids: list[str]) -> StepRows | None:
    """None without a forward pass."""
    runner = worker.model_runner
    state = runner.execute_model_state
    if state is None or state.hidden_states is None:
        return None
    batch = getattr(state, "input_batch", None)
    if batch is None:  # first-generation runner
        starts, row_of = runner.query_start_loc.np, runner.input_batch.req_id_to_index
    else:
        starts, row_of = batch.query_start_loc_np, {request_id: row for row, request_id in enumerate(batch.req_ids)}
    return StepRows(state.hidden_states, {i: int(starts[row_of[i]]) for i in request_ids})


def known_head_sizes(device: str) -> tuple[int, ...]:
    """Head sizes that the attention kernel supports; empty where it supports any."""
    if device != "cpu":
        return ()
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    return tuple(CPUAttentionBackend.get_supported_head_sizes())
