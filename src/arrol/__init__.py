"""arrol: online rollout pruning for reinforcement learning with verifiable rewards.

The public names below load on first use; ``import arrol`` itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arrol.algorithms.advantages import group_signal
    from arrol.cli.python import train
    from arrol.configs.run import RunConfig, load_run
    from arrol.engines.embedded.engine import EmbeddedEngine
    from arrol.engines.scripted import ScriptedEngine
    from arrol.errors import ArrolError
    from arrol.pruning.controller import PruningController
    from arrol.pruning.draws import joint_survival
    from arrol.quality.estimator import QualityEstimator
    from arrol.records.store import read_run
    from arrol.types import (
        Completion,
        FinishReason,
        GroupRequest,
        Prompt,
        PruningDecision,
        Rollout,
        RolloutGroup,
        RolloutId,
        SamplingParams,
    )

_HOME = {
    "ArrolError": "arrol.errors",
    "Completion": "arrol.types",
    "EmbeddedEngine": "arrol.engines.embedded.engine",
    "FinishReason": "arrol.types",
    "GroupRequest": "arrol.types",
    "Prompt": "arrol.types",
    "PruningController": "arrol.pruning.controller",
    "PruningDecision": "arrol.types",
    "QualityEstimator": "arrol.quality.estimator",
    "Rollout": "arrol.types",
    "RolloutGroup": "arrol.types",
    "RolloutId": "arrol.types",
    "RunConfig": "arrol.configs.run",
    "SamplingParams": "arrol.types",
    "ScriptedEngine": "arrol.engines.scripted",
    "group_signal": "arrol.algorithms.advantages",
    "joint_survival": "arrol.pruning.draws",
    "load_run": "arrol.configs.run",
    "read_run": "arrol.records.store",
    "train": "arrol.cli.python",
}

__all__ = [
    "ArrolError",
    "Completion",
    "EmbeddedEngine",
    "FinishReason",
    "GroupRequest",
    "Prompt",
    "PruningController",
    "PruningDecision",
    "QualityEstimator",
    "Rollout",
    "RolloutGroup",
    "RolloutId",
    "RunConfig",
    "SamplingParams",
    "ScriptedEngine",
    "group_signal",
    "joint_survival",
    "load_run",
    "read_run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'arrol' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
