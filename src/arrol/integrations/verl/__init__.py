"""Pruning inside verl: one override, ``agent_loop_manager_class=arrol.integrations.verl.AgentLoopManager``.

========================  ==========================================================================================
``options``               what a user may write under ``arrol``
``derive``                what else must be set for a given command, and what is refused
``__main__``              the same as a command: ``python -m arrol.integrations.verl <overrides>``
``manager``               the driver's side: announces groups, finds the head again on resume
``service``               the one place that decides and learns, an actor beside the driver
``agent_loop``            the workers' side: a rollout that may be stopped
``client``                how a rollout is cut in two calls (way A), or judged inside vLLM (way B)
``checkpoint``, ``sampler``  verl's own hooks: the head beside a checkpoint, ``arrol/*`` beside verl's metrics
``plugin``                the entry point, loaded by every process that imports verl
========================  ==========================================================================================

Nothing here loads verl or Ray before it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "AgentLoopManager": "manager",
    "HeadSaver": "checkpoint",
    "MetricsReplayBuffer": "sampler",
    "PrunedAgentLoop": "agent_loop",
}

__all__ = ["AgentLoopManager", "HeadSaver", "MetricsReplayBuffer", "PrunedAgentLoop"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
