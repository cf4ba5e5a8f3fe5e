"""Speculative decoding by n-grams: drafts are rejected at probes and around them, without effect on scores."""

import numpy as np
import pytest
import torch

from arrol.engines.vllm.request import StopReport
from vllm_host import (
    ARROL,
    DRAFTS,
    engine,
    features_of,
    generate,
    is_pruned,
    leftovers,
    params,
    scheduler_of,
    snapshot_of,
    taken_features,
    true_temperatures,
)

PROBES, TOTAL, SIZE = (7, 8, 9, 20), 40, 4
PROMPTS = [[9, 30, 30, 9, 30] * 6, [5, 6, 5, 5, 6, 6] * 5, [5] * 20]


@pytest.fixture(scope="module")
def llm(model):
    with true_temperatures(), engine(model, speculative_config=DRAFTS, async_scheduling=False, **ARROL) as llm:
        llm.collective_rpc("arrol_set_estimator", args=(snapshot_of(*PROBES).to_bytes(),))
        yield llm


@pytest.fixture
def verified(llm, monkeypatch):
    """(completion tokens before, drafts, accepted) of every request in every step that verified some."""
    scheduler, seen = scheduler_of(llm), []
    update = scheduler.update_from_output

    def spy(plan, result):
        for request_id, drafts in plan.scheduled_spec_decode_tokens.items():
            sampled = result.sampled_token_ids[result.req_id_to_index[request_id]]
            seen.append((scheduler.requests[request_id].num_output_tokens, len(drafts), len(sampled) - 1))
        return update(plan, result)

    monkeypatch.setattr(scheduler, "update_from_output", spy)
    return seen


def answers_of(llm, allowed, group_offset):
    asked = []
    for number in range(len(PROMPTS)):
        one = params(
            TOTAL, n=SIZE, group=number + group_offset, step=1, warmup_steps=0, probe_tokens=PROBES, rule="neyman",
            min_survivors=1, report=True,
        )  # fmt: skip
        one.allowed_token_ids = allowed
        asked.append(one)
    return generate(llm, PROMPTS, asked)


@pytest.mark.parametrize("allowed", [None, [5, 6], [5]], ids=["any token", "two tokens", "one token"])
def test_scores_are_those_of_the_accepted_tokens(llm, reference, verified, allowed):
    """Of any tokens a guess is nearly always wrong, of one it is always right."""
    offset = 10 * len(allowed or ())
    answers, taken = answers_of(llm, allowed, offset), taken_features(llm)
    if allowed == [5]:
        assert any(b < probe <= b + accepted for b, _, accepted in verified for probe in PROBES)
        assert all(set(completion.token_ids) == {5} for answer in answers for completion in answer.outputs)
    else:
        assert any(b + accepted < probe <= b + drafts for b, drafts, accepted in verified for probe in PROBES)
    for group, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
        for completion in answer.outputs:
            report = StopReport.parse(completion.stop_reason)
            for length in PROBES[: report.probe + 1]:
                want = features_of(reference, prompt, completion.token_ids, length)
                got = taken[(1, group + offset, completion.index), length]
                np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-5)
            want = snapshot_of(*PROBES).scores(want[None], report.probe)[0]
            assert report.score == pytest.approx(want, abs=1e-4)


def test_the_stopped_have_the_probed_tokens_and_at_most_the_drafts_accepted_with_the_last(llm):
    stopped = [c for answer in answers_of(llm, None, 200) for c in answer.outputs if is_pruned(c)]
    assert stopped
    for completion in stopped:
        excess = len(completion.token_ids) - PROBES[StopReport.parse(completion.stop_reason).probe]
        assert 0 <= excess <= DRAFTS["num_speculative_tokens"] + 1
        assert len(completion.logprobs) == len(completion.token_ids)
    assert set(leftovers(scheduler_of(llm)).values()) == {0}


def test_this_vllm_needs_true_temperatures():
    """Where this fails, vLLM has mended its CPU code: delete ``true_temperatures`` and the line in docs/vllm.md."""
    from vllm.utils.cpu_triton_utils import _expand_kernel_impl

    out = torch.full((2,), -1.0)
    _expand_kernel_impl(out, torch.tensor([0.5]), torch.tensor([2]), 0, 1)
    assert out.tolist() == [-1.0, -1.0]
