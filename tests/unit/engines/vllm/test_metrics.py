"""Prometheus counts what scheduler and worker do; ``tests/with_vllm/test_serving.py`` reads them at a server."""

import re
from pathlib import Path

import pytest

import vllm_host

if not vllm_host.has_vllm():
    pytest.skip("needs vLLM: make test-vllm", allow_module_level=True)

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from arrol.engines.vllm.metrics import PruningMetrics, process_metrics
from arrol.engines.vllm.request import pruning_args
from arrol.types import PruningDecision, Reason, RolloutId

PAGE = Path(__file__).parents[4] / "docs" / "vllm.md"
PROBE, TOTAL = 20, 64


def counts():
    """(outcome, reason) -> requests so far in this process."""
    samples = [s for metric in REGISTRY.collect() for s in metric.samples if s.name == "arrol:requests_total"]
    return {(s.labels["outcome"], s.labels["reason"]): s.value for s in samples}


@pytest.fixture
def counted():
    """``counted()``: what was added since the test began."""
    process_metrics()
    before = counts()
    return lambda: {key: new for key, value in counts().items() if (new := value - before.get(key, 0))}


def test_requests_are_counted_once_by_their_last_decision(make_loop, counted):
    loop = make_loop()
    loop.add("plain0", TOTAL)
    loop.add_group("g", 4, TOTAL, probe_tokens=PROBE)
    loop.add_group("early", 1, 5, probe_tokens=PROBE)
    loop.add("bad0", TOTAL, pruning={**pruning_args(group="bad", size=1, probe_tokens=PROBE), "arrol_keep_ratio": 7})
    assert REGISTRY.get_sample_value("arrol:open_groups") == 2
    loop.run()
    assert counted() == {("pruned", "draw"): 2, ("kept", "draw"): 2, ("unprobed", ""): 1, ("refused", ""): 1}
    assert REGISTRY.get_sample_value("arrol:open_groups") == 0


def test_deadlines_and_requests_without_a_score_are_told_apart(make_loop, counted):
    loop = make_loop(score=lambda request_id, length: float("nan"))
    loop.add_group("g", 2, TOTAL, probe_tokens=PROBE)
    loop.run()
    assert counted() == {("kept", "no_score"): 2}
    loop = make_loop()
    arguments = pruning_args(group="short", size=3, probe_tokens=PROBE, barrier_timeout=4, min_survivors=0)
    for index in range(2):
        loop.add(f"short.{index}", TOTAL, pruning=arguments)
    loop.run()
    reasons = {reason for _, reason in counted()}
    assert reasons == {"no_score", "deadline"}
    assert sum(counted().values()) == 4


def test_an_aborted_request_ends_too(make_loop, counted):
    loop = make_loop()
    loop.add_group("g", 2, TOTAL, probe_tokens=PROBE)
    loop.step()
    loop.abort("g.0", "g.1")
    assert counted() == {("unprobed", ""): 2}
    assert REGISTRY.get_sample_value("arrol:open_groups") == 0


def test_the_page_lists_every_metric():
    registry = CollectorRegistry()
    metrics = PruningMetrics(registry)
    metrics.ended(PruningDecision(RolloutId(0, 0, 0), 0, keep=True, survival=1.0, reason=Reason.DRAW))
    names = set(re.findall(r"^(arrol:\w+)", generate_latest(registry).decode(), re.MULTILINE))
    told = set(re.findall(r"^\| `(arrol:\w+)", PAGE.read_text("utf-8"), re.MULTILINE))
    assert told == {name for name in names if not name.endswith("_created")}
