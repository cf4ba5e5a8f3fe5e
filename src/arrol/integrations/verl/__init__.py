"""Pruning inside verl: one override, ``agent_loop_manager_class=arrol.integrations.verl.AgentLoopManager``.

========================  ==========================================================================================
``options``, ``rules``    the options under ``arrol``; the allocation rules that work inside verl
``derive``, ``refusals``  settings that follow from a command, and settings that are refused
``__main__``              both as a command: ``python -m arrol.integrations.verl <overrides>``
``manager``               the driver's side: tickets for groups, the head on resume
``service``               controller, head and prompt history of a run, as an actor on the driver's node
``agent_loop``            the workers' side: one rollout
``client``                one rollout in two calls (way ``two_calls``) or one inside vLLM (way ``engine``)
``watch``                 what the service says of long silence and of a probe that few rollouts reach
``checkpoint``, ``sampler``  verl's own hooks: the head in a checkpoint, ``arrol/*`` among verl's metrics
``plugin``                the entry point, loaded by every process that imports verl
========================  ==========================================================================================

verl and Ray are imported on first use of a name.
"""

from __future__ import annotations

from importlib import import_module

_HOME = {
    "AgentLoopManager": "manager",
    "HeadSaver": "checkpoint",
    "MetricsReplayBuffer": "sampler",
    "PrunedAgentLoop": "agent_loop",
}

__all__ = ["AgentLoopManager", "HeadSaver", "MetricsReplayBuffer", "PrunedAgentLoop"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
