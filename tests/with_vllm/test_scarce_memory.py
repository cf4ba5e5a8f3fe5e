"""Few KV blocks and a small budget per step: requests are preempted, computed again, fed in portions; none is lost."""

import numpy as np
import pytest

from arrol.engines.vllm import groups
from arrol.engines.vllm.request import StopReport
from vllm_host import (
    ARROL,
    engine,
    features_of,
    generate,
    is_pruned,
    is_second_runner,
    leftovers,
    params,
    preemptions,
    scheduler_of,
    snapshot_of,
    taken_features,
)

PROBES, TOTAL, SIZE = (24, 40), 60, 6
PROMPTS = [list(range(60, 130)), list(range(40, 45))]


class Extension:
    """The slot that trainers fill with their weight transfer; it must stay free."""

    def trainer_says(self, word):
        return f"{word} to {type(self).__name__}"


@pytest.fixture(scope="module")
def llm(model):
    scarce = {"block_size": 32, "num_gpu_blocks_override": 10, "max_num_batched_tokens": 48}
    extension = {"worker_extension_cls": "test_scarce_memory.Extension"}
    with engine(model, **scarce, **extension, **ARROL) as llm:
        llm.collective_rpc("arrol_set_estimator", args=(snapshot_of(*PROBES).to_bytes(),))
        yield llm


@pytest.fixture
def scored(llm, monkeypatch):
    """(request, length) of every score that reaches the book."""
    book, seen = scheduler_of(llm).book, []
    probed = book.probed

    def spy(events):
        seen.extend((one.request_id, one.probe_tokens) for one in events)
        return probed(events)

    monkeypatch.setattr(book, "probed", spy)
    return seen


def test_a_preempted_request_is_scored_once_and_as_if_nothing_had_happened(llm, reference, scored):
    before = preemptions(llm)
    asked = [
        params(TOTAL, n=SIZE, group=i, step=1, warmup_steps=0, probe_tokens=PROBES, rule="neyman", report=True)
        for i in range(len(PROMPTS))
    ]
    answers, taken = generate(llm, PROMPTS, asked), taken_features(llm)
    assert preemptions(llm) > before
    assert len(scored) == len(set(scored)) == len(taken)
    for group, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
        assert sum(map(is_pruned, answer.outputs)) >= 1
        for completion in answer.outputs:
            report = StopReport.parse(completion.stop_reason)
            assert len(completion.token_ids) == TOTAL if report.keep else len(completion.token_ids) >= PROBES[0]
            assert len(completion.logprobs) == len(completion.token_ids)
            for length in PROBES[: report.probe + 1]:
                want = features_of(reference, prompt, completion.token_ids, length)
                np.testing.assert_allclose(taken[(1, group, completion.index), length], want, atol=1e-4, rtol=1e-5)
    assert set(leftovers(scheduler_of(llm)).values()) == {0}


def test_siblings_that_end_before_the_probe_are_not_waited_for(llm):
    group = {"group": "early", "size": 3, "probe_tokens": PROBES[:1], "report": True}
    answers = generate(llm, PROMPTS[1:] * 3, [params(5, **group), params(TOTAL, **group), params(TOTAL, **group)])
    early, *others = [answer.outputs[0] for answer in answers]
    assert (len(early.token_ids), early.finish_reason, early.stop_reason) == (5, "length", None)
    assert [StopReport.parse(completion.stop_reason).reason for completion in others] == ["draw", "draw"]
    assert sorted(len(completion.token_ids) for completion in others) == [PROBES[0], TOTAL]
    assert set(leftovers(scheduler_of(llm)).values()) == {0}


def test_a_sibling_that_never_comes_is_waited_for_until_the_deadline(llm):
    alone = params(TOTAL, n=4, group="split", size=6, probe_tokens=PROBES[:1], barrier_timeout=6, report=True)
    (answer,) = generate(llm, PROMPTS[1:], [alone])
    assert {StopReport.parse(completion.stop_reason).reason for completion in answer.outputs} == {"deadline"}
    assert any(map(is_pruned, answer.outputs))
    for completion in filter(is_pruned, answer.outputs):
        assert PROBES[0] < len(completion.token_ids) <= PROBES[0] + 7
    assert len(scheduler_of(llm).book) == 0


def test_the_extension_slot_stays_free(llm):
    assert llm.collective_rpc("trainer_says", args=("hello",)) == ["hello to PruningWorker"]


@pytest.mark.skipif(is_second_runner(), reason="an interpreted step takes a quarter of a second")
def test_hundreds_of_requests_leave_nothing_behind(llm):
    """Groups of all sizes and rules, some of them ended by the client."""
    from vllm.sampling_params import RequestOutputKind

    rng, manager = np.random.default_rng(0), scheduler_of(llm).kv_cache_manager
    llm.reset_prefix_cache()
    groups_before = scheduler_of(llm).book.num_groups
    free, llm_engine, answered, left = manager.block_pool.get_num_free_blocks(), llm.llm_engine, {}, set()
    waiting = [f"soak{number}" for number in range(120)]
    while waiting or llm_engine.has_unfinished_requests():
        while waiting and len(scheduler_of(llm).requests) < 24:
            name, size = waiting.pop(), int(rng.integers(1, 6))
            rule = {"rule": str(rng.choice(["uniform", "neyman", "confidence", "never"])), "probe_tokens": PROBES[:1]}
            draw = str(rng.choice(["bernoulli", "systematic"]))
            asked = params(int(rng.integers(10, 60)), n=size, group=name, draw=draw, **rule)
            asked.output_kind = RequestOutputKind.FINAL_ONLY
            llm_engine.add_request(name, {"prompt_token_ids": PROMPTS[int(rng.integers(2))]}, asked)
        for answer in llm_engine.step():
            if answer.finished:
                assert answer.request_id not in answered
                answered[answer.request_id] = answer
        if rng.random() < 0.02 and scheduler_of(llm).requests:
            victim = str(rng.choice(sorted(scheduler_of(llm).requests)))
            parent = llm_engine.output_processor.request_states[victim].external_req_id
            left.add(parent)
            llm_engine.abort_request([parent])
    assert set(answered) | left == {f"soak{number}" for number in range(120)}
    assert any(is_pruned(completion) for answer in answered.values() for completion in answer.outputs)
    assert preemptions(llm) > 0
    assert scheduler_of(llm).book.num_groups == groups_before
    assert {what for what, count in leftovers(scheduler_of(llm)).items() if count} <= {"groups"}
    llm.reset_prefix_cache()
    assert manager.block_pool.get_num_free_blocks() == free


def test_the_book_forgets_groups_that_stay_incomplete(llm, monkeypatch):
    generate(llm, PROMPTS[1:], [params(5, n=2, group="half", size=4, probe_tokens=PROBES)])
    assert scheduler_of(llm).book.num_groups >= 1
    monkeypatch.setattr(groups, "IDLE_S", 0.0)
    generate(llm, PROMPTS[1:], [params(40, n=2, group="whole", probe_tokens=PROBES)])
    assert scheduler_of(llm).book.num_groups == 0
