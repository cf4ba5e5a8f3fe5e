"""Without a head and without a worker of ours: log-probabilities decide."""

import numpy as np
import pytest

from arrol.engines.vllm.request import StopReport
from vllm_host import CONFIDENCE, engine, generate, is_pruned, params

PROBE, TOTAL, SIZE = 12, 60, 4
PROMPTS = [list(range(60, 100)), list(range(40, 45))]


@pytest.fixture(scope="module", params=["0", "1"], ids=["in-process", "engine-process"])
def llm(model, request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", request.param)
        patch.setenv("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
        with engine(model, **CONFIDENCE) as llm:
            assert hasattr(llm.llm_engine.engine_core, "engine_core") == (request.param == "0")
            yield llm


@pytest.mark.parametrize("logprobs", [0, 5])
def test_the_least_confident_half_is_stopped_at_exactly_the_probe(llm, logprobs):
    """Exactly, unless siblings were waited for: a process of its own may start them at different steps."""
    pruning = {"rule": "confidence", "probe_tokens": PROBE, "report": True}
    asked = [params(TOTAL, n=SIZE, logprobs=logprobs, group=f"{logprobs}-{i}", **pruning) for i in range(len(PROMPTS))]
    for one in asked:
        one.extra_args["arrol_run"] = one.extra_args["arrol_group"]  # else one group would set the other's threshold
    longest = PROBE if hasattr(llm.llm_engine.engine_core, "engine_core") else TOTAL - 1
    for answer in generate(llm, PROMPTS, asked):
        reports = [StopReport.parse(completion.stop_reason) for completion in answer.outputs]
        for completion, report in zip(answer.outputs, reports, strict=True):
            assert len(completion.logprobs) == len(completion.token_ids)
            assert len(completion.token_ids) in ([TOTAL] if report.keep else range(PROBE, longest + 1))
            sampled = [
                step[token].logprob for step, token in zip(completion.logprobs, completion.token_ids, strict=True)
            ]
            assert report.score == pytest.approx(np.mean(sampled[:PROBE]), abs=1e-5)
        stopped = [report.score for report in reports if not report.keep]
        assert len(stopped) == SIZE // 2
        assert max(stopped) <= min(report.score for report in reports if report.keep)


def test_what_needs_a_head_or_has_no_logprobs_is_refused_and_the_others_go_on(llm):
    headless = params(TOTAL, n=2, group="headless", rule="neyman", probe_tokens=PROBE)
    blind = params(TOTAL, n=2, logprobs=None, group="blind", rule="confidence", probe_tokens=PROBE)
    good = params(TOTAL, n=SIZE, group="good", rule="uniform", probe_tokens=PROBE)
    first, second, third = generate(llm, [PROMPTS[0]] * 3, [headless, blind, good])
    assert {c.stop_reason.split(":")[1] for c in first.outputs} == {"arrol_rule = 'neyman'"}
    assert {c.finish_reason for c in [*first.outputs, *second.outputs]} == {"error"}
    assert {c.stop_reason.split(":")[1] for c in second.outputs} == {"logprobs = None"}
    assert sum(map(is_pruned, third.outputs)) == SIZE // 2
