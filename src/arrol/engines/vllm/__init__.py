"""Pruning inside vLLM, without a fork: a scheduler class, a worker class, and flat request arguments.

``LLM(model, scheduler_cls="arrol.engines.vllm.PruningScheduler", worker_cls="arrol.engines.vllm.PruningWorker")`` and
``SamplingParams(extra_args=pruning_args(...))`` are the whole interface; ``docs/vllm.md`` walks through it. The classes
load vLLM on first use; the rest needs no vLLM.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arrol.engines.vllm.admission import RequestCheck
    from arrol.engines.vllm.endpoint import HeadEndpoint
    from arrol.engines.vllm.engine import VllmEngine
    from arrol.engines.vllm.request import PruningRequest, StopReport, pruning_args
    from arrol.engines.vllm.sampler import push_estimator
    from arrol.engines.vllm.scheduler import ConfidenceScheduler, PruningScheduler
    from arrol.engines.vllm.worker import PruningWorker

__all__ = [
    "ConfidenceScheduler",
    "HeadEndpoint",
    "PruningRequest",
    "PruningScheduler",
    "PruningWorker",
    "RequestCheck",
    "StopReport",
    "VllmEngine",
    "pruning_args",
    "push_estimator",
]

_HOMES = {
    "ConfidenceScheduler": "scheduler",
    "HeadEndpoint": "endpoint",
    "PruningRequest": "request",
    "PruningScheduler": "scheduler",
    "PruningWorker": "worker",
    "RequestCheck": "admission",
    "StopReport": "request",
    "VllmEngine": "engine",
    "pruning_args": "request",
    "push_estimator": "sampler",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
