"""Two ranks of tensor parallelism, each a process: one of them scores, and the other would have said the same."""

import numpy as np
import pytest

from arrol.engines.vllm import compat
from arrol.engines.vllm.request import StopReport
from arrol.engines.vllm.sampler import push_estimator
from arrol.errors import ConfigError
from vllm_host import ARROL, engine, features_of, generate, is_pruned, leftovers, params, scheduler_of, snapshot_of
from vllm_host import taken_features as taken

PROBE, TOTAL, SIZE = 12, 30, 4
PROMPTS = [list(range(60, 100)), list(range(40, 45))]


class Loudspeaker:
    """Makes every rank score, not only the one that is heard."""

    def all_ranks_score(self):
        compat.is_output_rank = lambda worker: True


@pytest.fixture(scope="module")
def llm(model):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
        extension = {"worker_extension_cls": "test_ranks.Loudspeaker"}
        with engine(model, tensor_parallel_size=2, distributed_executor_backend="mp", **extension, **ARROL) as llm:
            yield llm


def test_a_refused_head_leaves_no_answer_to_the_next_call(llm):
    """vLLM #58242: an error of one rank leaves the answers of the others in their queues."""
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"estimator.hidden_size = 64: the model's is 128; load the estimator"):
            push_estimator(llm, snapshot_of(PROBE, hidden=64))
    assert push_estimator(llm, snapshot_of(PROBE, version=2)) == 2


def answers_of(llm, step):
    asked = [
        params(TOTAL, n=SIZE, group=i, step=step, warmup_steps=0, probe_tokens=PROBE, report=True)
        for i in range(len(PROMPTS))
    ]
    return generate(llm, PROMPTS, asked)


def test_features_equal_hugging_face_and_the_stopped_have_the_probed_tokens(llm, reference):
    push_estimator(llm, snapshot_of(PROBE))
    answers, features = answers_of(llm, 1), taken(llm)
    for group, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
        assert sum(map(is_pruned, answer.outputs)) == SIZE // 2
        for completion in answer.outputs:
            report = StopReport.parse(completion.stop_reason)
            assert len(completion.token_ids) == (TOTAL if report.keep else PROBE)
            want = features_of(reference, prompt, completion.token_ids, PROBE)
            np.testing.assert_allclose(features[(1, group, completion.index), PROBE], want, atol=1e-4, rtol=1e-5)
            assert report.score == pytest.approx(snapshot_of(PROBE).scores(want[None], 0)[0], abs=1e-4)
    assert set(leftovers(scheduler_of(llm)).values()) == {0}


def test_the_ranks_agree(llm):
    push_estimator(llm, snapshot_of(PROBE))
    llm.collective_rpc("all_ranks_score")
    answers_of(llm, 2)
    first, second = llm.collective_rpc("arrol_take_features")
    assert len(first["index"]) == len(PROMPTS) * SIZE
    assert first == second
