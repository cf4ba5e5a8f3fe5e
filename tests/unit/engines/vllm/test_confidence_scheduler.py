"""The scheduler that judges by log-probabilities and needs no worker of ours."""

import pytest

import vllm_host

if not vllm_host.has_vllm():
    pytest.skip("needs vLLM: make test-vllm", allow_module_level=True)

from arrol.engines.vllm.request import StopReport, pruning_args
from arrol.engines.vllm.scheduler import ConfidenceScheduler
from vllm_host import assert_nothing_is_left

PROBE, TOTAL = 20, 64


@pytest.mark.parametrize("rule", ["confidence", "uniform"])
def test_confidence_needs_no_worker_and_leaves_exactly_the_probed_tokens(make_loop, rule):
    loop = make_loop(ConfidenceScheduler, snapshot=None, score=lambda request_id, length: -float(request_id[-1]) - 1)
    loop.add_group("g", 4, TOTAL, probe_tokens=PROBE, rule=rule)
    loop.run()
    assert len(loop.pruned()) == 2
    if rule == "confidence":
        assert loop.pruned() == ["g.2", "g.3"]
    for request_id in loop.pruned():
        assert loop.tokens(request_id) == PROBE
        assert StopReport.parse(loop.answers[request_id].stop_reason).score == pytest.approx(-float(request_id[-1]) - 1)
    assert loop.scheduler._logprobs == {}
    assert_nothing_is_left(loop)


@pytest.mark.parametrize("depth", [1, 2])
def test_confidence_survives_preemption(make_loop, depth):
    loop = make_loop(ConfidenceScheduler, snapshot=None, score=lambda *_: -1.0, blocks=9, depth=depth)
    for name in "abcd":
        loop.add_group(name, 4, TOTAL, probe_tokens=(PROBE, 40), rule="confidence", barrier_timeout=500)
    loop.run()
    assert sum(request.num_preemptions for request in loop.requests.values()) > 0
    assert 4 <= len(loop.pruned()) <= 8
    assert all(loop.tokens(i) >= PROBE for i in loop.pruned())
    assert loop.scheduler._logprobs == {}
    assert_nothing_is_left(loop)


@pytest.mark.parametrize(("rule", "logprobs", "words"), [
    ("neyman", 0, "arrol_rule = 'neyman': needs a trained head"), ("confidence", None, "logprobs = None"),
])  # fmt: skip
def test_confidence_refuses_what_it_cannot_judge(make_loop, rule, logprobs, words):
    loop = make_loop(ConfidenceScheduler, snapshot=None)
    loop.add("bad0", TOTAL, logprobs=logprobs, pruning=pruning_args(group="g", size=1, probe_tokens=PROBE, rule=rule))
    loop.run()
    assert loop.answers["bad0"].stop_reason.startswith(f"refused:{words}")
