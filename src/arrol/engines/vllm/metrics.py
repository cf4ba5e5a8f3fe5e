"""Prometheus metrics of pruning, beside vLLM's own.

Scheduler and worker count in their own processes. vLLM's ``/metrics`` adds them up where all processes share the folder
``PROMETHEUS_MULTIPROC_DIR``; an engine inside the caller's process has them in ``prometheus_client.REGISTRY``.
"""

from __future__ import annotations

from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Summary

from arrol.types import PruningDecision


class PruningMetrics:
    """One registry's metrics; ``docs/vllm.md`` lists them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "arrol:requests",
            "Requests with pruning arguments, when they end: pruned, kept, unprobed or refused.",
            ("outcome", "reason"),
            registry=registry,
        )
        self.open_groups = Gauge(
            "arrol:open_groups",
            "Groups with a running request, or with rollouts still to come.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.scoring_seconds = Summary(
            "arrol:scoring_seconds", "Time that the worker spends on probes.", registry=registry
        )

    def ended(self, decision: PruningDecision | None) -> None:
        """A request ended; its last decision, None for one that reached no probe."""
        if decision is None:
            self._requests.labels("unprobed", "").inc()
        else:
            self._requests.labels("kept" if decision.keep else "pruned", decision.reason.value).inc()

    def refused(self) -> None:
        """A request was refused."""
        self._requests.labels("refused", "").inc()


@cache
def process_metrics() -> PruningMetrics:
    """The metrics of this process; a registry takes each name once."""
    return PruningMetrics(REGISTRY)
