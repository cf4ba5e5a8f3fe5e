"""``vllm.LLM``: what the head reads is what Hugging Face computes, and stopped requests come back as promised."""

import numpy as np
import pytest
from prometheus_client import REGISTRY

from arrol.engines.vllm.request import StopReport, pruning_args
from arrol.engines.vllm.sampler import completion_of, push_estimator, settings_of
from arrol.errors import ConfigError
from arrol.types import FinishReason
from vllm_host import (
    ARROL,
    HIDDEN,
    engine,
    features_of,
    generate,
    is_pruned,
    is_second_runner,
    leftovers,
    params,
    scheduler_of,
    snapshot_of,
    step_without_requests,
    taken_features,
    worker_of,
)

PROBES, TOTAL = ((4, 9), 13) if is_second_runner() else ((7, 20), 28)
"""An interpreted step of the second runner takes a second."""
SIZE = 4
CHECK = {"logits_processors": ["arrol.engines.vllm:RequestCheck"]} if is_second_runner() else {}
"""On the first runner ``test_admission.py`` asks it; here the scheduler's own refusals are seen."""
PROMPTS = [list(range(40, 45)), list(range(60, 150)), [7] * 33]


@pytest.fixture(scope="module")
def plain(model):
    """Tokens of an engine that has never heard of us; not asked for where an interpreted step takes so long."""
    if is_second_runner():
        return None
    with engine(model) as llm:
        return tokens(generate(llm, PROMPTS, [params(TOTAL, n=SIZE, seed=i) for i in range(len(PROMPTS))]))


@pytest.fixture(scope="module")
def llm(model, plain):
    with engine(model, **ARROL, **CHECK) as llm:
        llm.collective_rpc("arrol_set_estimator", args=(snapshot_of(*PROBES).to_bytes(),))
        yield llm


def tokens(answers):
    return [[tuple(completion.token_ids) for completion in answer.outputs] for answer in answers]


def groups(step, **pruning):
    pruning = {"rule": "neyman", "probe_tokens": PROBES, "warmup_steps": 0, "step": step, "report": True, **pruning}
    return [params(TOTAL, n=SIZE, seed=i, group=i, **pruning) for i in range(len(PROMPTS))]


def test_the_runner_is_the_one_that_was_asked_for(llm):
    runner, settings = type(worker_of(llm).model_runner), llm.llm_engine.vllm_config.scheduler_config
    assert any(base.__module__ == "vllm.v1.worker.gpu.model_runner" for base in runner.__mro__) == is_second_runner()
    assert settings.async_scheduling == is_second_runner()


@pytest.mark.skipif(not CHECK, reason="see CHECK")
def test_a_wrong_request_is_refused_before_it_is_admitted(llm):
    from vllm.exceptions import VLLMValidationError

    bad = params(TOTAL, n=2, group="bad", probe_tokens=PROBES)
    bad.extra_args["arrol_keep_ratio"] = 7
    with pytest.raises(VLLMValidationError, match=r"^arrol_keep_ratio = 7: "):
        generate(llm, PROMPTS[:1], [bad])
    assert set(leftovers(scheduler_of(llm)).values()) == {0}


def test_features_equal_hugging_face_and_scores_are_the_heads(llm, reference):
    answers = generate(llm, PROMPTS, groups(1))
    taken, snapshot, seen = taken_features(llm), snapshot_of(*PROBES), set()
    for group, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
        for completion in answer.outputs:
            report = StopReport.parse(completion.stop_reason)
            for probe, length in enumerate(PROBES):
                if len(completion.token_ids) < length:
                    continue
                got = taken[(1, group, completion.index), length]
                want = features_of(reference, prompt, completion.token_ids, length)
                np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-5)
                seen.add(((1, group, completion.index), length))
                if probe == report.probe:
                    assert report.score == pytest.approx(snapshot.scores(want[None], probe)[0], abs=1e-4)
    assert seen == set(taken)
    assert len(seen) > len(PROMPTS) * SIZE


def test_the_stopped_have_as_many_tokens_as_the_probe_and_the_others_all(llm):
    answers = generate(llm, PROMPTS, groups(2))
    for answer in answers:
        assert answer.finished
        assert len(answer.outputs) == SIZE
        assert 1 <= sum(map(is_pruned, answer.outputs)) <= SIZE // 2
        for completion in answer.outputs:
            report = StopReport.parse(completion.stop_reason)
            assert len(completion.token_ids) == (TOTAL if report.keep else PROBES[report.probe])
            assert len(completion.logprobs) == len(completion.token_ids)
            assert completion.finish_reason == ("length" if report.keep else "stop")
            assert np.isfinite(report.score)
    assert set(leftovers(scheduler_of(llm)).values()) == {0}


def test_without_our_arguments_the_engine_writes_what_it_always_writes(llm, plain):
    answers = generate(llm, PROMPTS, [params(TOTAL, n=SIZE, seed=i) for i in range(len(PROMPTS))])
    assert tokens(answers) == plain
    assert {completion.stop_reason for answer in answers for completion in answer.outputs} == {None}


def test_pruning_changes_no_token_of_a_survivor_nor_of_the_stopped(llm):
    unpruned = generate(llm, PROMPTS, groups(3, rule="never"))
    for written, whole in zip(tokens(generate(llm, PROMPTS, groups(3))), tokens(unpruned), strict=True):
        for mine, theirs in zip(written, whole, strict=True):
            assert mine == theirs[: len(mine)]


def test_our_counts_are_in_the_registry_of_this_process(llm):
    def total(name):
        samples = [sample for metric in REGISTRY.collect() for sample in metric.samples]
        return sum(sample.value for sample in samples if f"{sample.name}/{sample.labels.get('outcome')}" == name)

    names = ("arrol:requests_total/pruned", "arrol:requests_total/kept", "arrol:scoring_seconds_sum/None")
    before = [total(name) for name in names]
    (answer,) = generate(llm, PROMPTS[:1], groups(6)[:1])
    pruned, kept, seconds = (total(name) - old for name, old in zip(names, before, strict=True))
    assert (pruned, pruned + kept) == (sum(map(is_pruned, answer.outputs)), SIZE)
    assert seconds > 0


def test_a_new_head_judges_from_the_next_request_on_and_signs_with_its_version(llm, reference):
    snapshot = snapshot_of(*PROBES, seed=5, version=9)
    try:
        assert push_estimator(llm, snapshot) == 9
        generate(llm, PROMPTS[:1], [params(3)])  # no request is watched in the step that brings the new tables
        (answer,) = generate(llm, PROMPTS[:1], groups(4)[:1])
    finally:
        llm.collective_rpc("arrol_set_estimator", args=(snapshot_of(*PROBES).to_bytes(),))
    for completion in answer.outputs:
        report = StopReport.parse(completion.stop_reason)
        want = features_of(reference, PROMPTS[0], completion.token_ids, PROBES[report.probe])
        assert report.version == 9
        assert report.score == pytest.approx(snapshot.scores(want[None], report.probe)[0], abs=1e-4)


def test_a_head_that_reads_the_last_state_alone_needs_no_logprobs(llm, reference):
    snapshot = snapshot_of(*PROBES, features=("last_hidden",))
    llm.collective_rpc("arrol_set_estimator", args=(snapshot.to_bytes(),))
    try:
        generate(llm, PROMPTS[:1], [params(3)])
        asked = params(TOTAL, n=SIZE, logprobs=None, group="only", probe_tokens=PROBES, report=True)
        (answer,) = generate(llm, PROMPTS[:1], [asked])
    finally:
        llm.collective_rpc("arrol_set_estimator", args=(snapshot_of(*PROBES).to_bytes(),))
        taken_features(llm)
    assert 1 <= sum(map(is_pruned, answer.outputs)) <= SIZE // 2
    for completion in answer.outputs:
        report = StopReport.parse(completion.stop_reason)
        want = features_of(reference, PROMPTS[0], completion.token_ids, PROBES[report.probe])[:HIDDEN]
        assert report.score == pytest.approx(snapshot.scores(want[None], report.probe)[0], abs=1e-4)


def test_bad_arguments_refuse_one_request_and_the_others_go_on(llm):
    bad = params(TOTAL, n=2, group="bad", probe_tokens=PROBES)
    bad.extra_args["arrol_keep_ratio"] = 7
    unseen = params(TOTAL, n=2, group="unseen", probe_tokens=9)
    generate(llm, PROMPTS[:1], [params(3)])  # the scheduler learns which probes the head has
    refused, unknown, good = generate(llm, PROMPTS, [bad, unseen, groups(5)[0]])
    for answer, field in ((refused, "arrol_keep_ratio = 7"), (unknown, "arrol_probe_tokens = [9]")):
        for completion in answer.outputs:
            assert completion.stop_reason.startswith(f"refused:{field}")
            assert (len(completion.token_ids), completion.finish_reason) == (0, "error")
    assert 1 <= sum(map(is_pruned, good.outputs)) <= SIZE // 2


@pytest.mark.skipif(is_second_runner(), reason="Triton's interpreter cannot run the grammar's kernel")
def test_a_structured_answer_stays_structured_beside_the_pruned(llm):
    from vllm.sampling_params import StructuredOutputsParams

    digits = params(12, seed=1)
    digits.ignore_eos, digits.structured_outputs = False, StructuredOutputsParams(regex="[0-9]{8}")
    pruned_digits = params(12, n=SIZE, group="digits", probe_tokens=PROBES)
    pruned_digits.ignore_eos, pruned_digits.structured_outputs = False, StructuredOutputsParams(regex="[0-9]{10}")
    alone, both, free = generate(llm, [PROMPTS[0], *PROMPTS[::2]], [digits, pruned_digits, groups(6)[2]])
    assert alone.outputs[0].text.isdecimal()
    assert len(alone.outputs[0].text) == 8
    assert all(completion.text.isdecimal() for completion in both.outputs)
    assert 1 <= sum(map(is_pruned, both.outputs)) <= SIZE // 2
    assert 1 <= sum(map(is_pruned, free.outputs)) <= SIZE // 2


def test_vllms_detection_of_repetition_ends_a_survivor_as_truncated(llm):
    settings = {"max_tokens": TOTAL, "ignore_eos": True, "logprobs": 0, "allowed_token_ids": [65]}
    settings["repetition_detection"] = {"max_pattern_size": 1, "min_count": PROBES[0] + 3}
    settings["extra_args"] = pruning_args(group="repeats", size=2, rule="never", report=True)
    (answer,) = generate(llm, PROMPTS[:1], [settings_of(llm, settings)])
    assert (answer.outputs[0].finish_reason, len(answer.outputs[0].token_ids)) == ("repetition", PROBES[0] + 3)
    assert completion_of(answer.outputs[0]).finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {"min_pattern": 2},
            "repetition_detection: 'min_pattern' is no field of vLLM's RepetitionDetectionParams; use ",
        ),
        ({"max_pattern_size": 2, "min_count": -1}, "repetition_detection = {'max_pattern_size': 2, 'min_count': -1}: "),
    ],
)
def test_a_wrong_mapping_of_vllms_settings_is_one_line(llm, wrong, words):
    with pytest.raises(ConfigError) as error:
        settings_of(llm, {"max_tokens": 8, "repetition_detection": wrong})
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)


def test_the_worker_forgets_ended_requests(llm):
    generate(llm, PROMPTS, groups(7))
    taken_features(llm)
    step_without_requests(llm)
    reader = worker_of(llm)._reader
    assert not reader._records
    assert not reader._kept
    assert len(reader._free) == len(reader._sum_SD)
