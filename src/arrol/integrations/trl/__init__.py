"""TRL with pruning: change one import.

    from arrol.integrations.trl import GRPOConfig, GRPOTrainer

The two parts alone, for a subclass of your own: :func:`pruned_rollout` and :func:`prune_rewards`. Only public hooks of
TRL are used: ``rollout_func`` with ``env_mask``, rewards that are None, ``compute_loss``, a callback.
For TRL's ``AsyncGRPOTrainer``: :class:`PrunedRolloutWorker`, and without a GPU :class:`LocalPolicy` and :func:`on_cpu`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from arrol.errors import MissingExtraError

if TYPE_CHECKING:
    from arrol.integrations.trl.async_cpu import on_cpu
    from arrol.integrations.trl.async_local import LocalPolicy
    from arrol.integrations.trl.async_worker import PrunedRolloutWorker
    from arrol.integrations.trl.config import GRPOConfig
    from arrol.integrations.trl.rewards import prune_rewards
    from arrol.integrations.trl.rollout import pruned_rollout
    from arrol.integrations.trl.trainer import GRPOTrainer

_HOME = {
    "GRPOConfig": "config",
    "GRPOTrainer": "trainer",
    "LocalPolicy": "async_local",
    "PrunedRolloutWorker": "async_worker",
    "on_cpu": "async_cpu",
    "prune_rewards": "rewards",
    "pruned_rollout": "rollout",
}
__all__ = [
    "GRPOConfig",
    "GRPOTrainer",
    "LocalPolicy",
    "PrunedRolloutWorker",
    "on_cpu",
    "prune_rewards",
    "pruned_rollout",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "trl":
            raise
        raise MissingExtraError("trl is not installed; run: pip install '.[trl]' in a checkout of arrol") from None


def __dir__() -> list[str]:
    return sorted(__all__)
