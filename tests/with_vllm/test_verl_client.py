"""verl's way B on a real vLLM: what verl's server passes on, what it drops, and what our client makes of the rest.

verl itself is not here (it pins another vLLM); its server is stood in for by the few lines that it spends on a request:
sampling parameters go to vLLM as they are, tokens and log-probabilities come back, ``stop_reason`` does not.
"""

import asyncio
import types
import uuid

import pytest

from arrol.engines.vllm.request import pruning_args
from arrol.errors import ModelError
from arrol.integrations.verl.client import InsideEngine, Limits, Pruned
from vllm_host import CONFIDENCE, EOS, TINY

PROBE, TOTAL, SIZE = 12, 40, 4
PROMPT = list(range(40, 45))


class VerlsServer:
    """``generate`` of verl's server client, over ``AsyncLLM``."""

    def __init__(self, engine):
        self.engine = engine

    async def generate(self, request_id, *, prompt_ids, sampling_params, **others):
        from vllm import SamplingParams

        params = SamplingParams(**sampling_params, logprobs=0)
        async for answer in self.engine.generate({"prompt_token_ids": prompt_ids}, params, request_id=uuid.uuid4().hex):
            last = answer.outputs[0]
        logprobs = [step[token].logprob for token, step in zip(last.token_ids, last.logprobs, strict=True)]
        reason = "aborted" if last.finish_reason == "abort" else "completed"
        return types.SimpleNamespace(
            token_ids=list(last.token_ids), log_probs=logprobs, stop_reason=reason, num_preempted=0, extra_fields={}
        )


async def group_of(server, number, **changes):
    """All rollouts of one prompt, as agent loops ask for them; outputs or exceptions."""
    rule = {"rule": "uniform", "probe_tokens": PROBE, "keep_ratio": 0.5, **changes}
    clients = [
        InsideEngine(
            server,
            arguments=pruning_args(group=str(number), size=SIZE, step=1, index=index, seed=0, warmup_steps=0, **rule),
            limits=Limits(TOTAL, frozenset({EOS})),
            sticky_id=f"arrol-1-{number}",
        )
        for index in range(SIZE)
    ]
    sampling = {"temperature": 1.0, "ignore_eos": True}
    asked = [client.generate("own", prompt_ids=PROMPT, sampling_params=sampling) for client in clients]
    return await asyncio.gather(*asked, return_exceptions=True)


async def serve(model):
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model, **TINY, **CONFIDENCE))
    try:
        server = VerlsServer(engine)
        groups = await asyncio.gather(
            group_of(server, 0), group_of(server, 1, rule="confidence"), group_of(server, 2, rule="never")
        )
        return groups, await group_of(server, 3, rule="balanced")
    finally:
        engine.shutdown()


@pytest.fixture(scope="module")
def served(model):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
        patch.setenv("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
        return asyncio.run(serve(model))


def test_half_of_a_group_is_stopped_inside_vllm_and_the_client_sees_it(served):
    (uniform, confidence, never), _ = served
    for group in (uniform, confidence):
        stopped = [answer for answer in group if isinstance(answer, Pruned)]
        kept = [answer for answer in group if not isinstance(answer, Exception)]
        assert (len(stopped), len(kept)) == (SIZE // 2, SIZE // 2)
        assert all(PROBE <= answer.num_tokens < TOTAL for answer in stopped)
        assert all(len(answer.token_ids) == TOTAL for answer in kept)
    assert [len(answer.token_ids) for answer in never] == [TOTAL] * SIZE


def test_a_rule_that_needs_a_head_is_an_error_and_no_stop(served):
    _, refused = served
    assert all(isinstance(answer, ModelError) for answer in refused)
