"""The same claims on vLLM's second model runner with asynchronous scheduling, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import test_llm
import test_scarce_memory

CLAIMS = [
    test_llm.test_the_runner_is_the_one_that_was_asked_for,
    test_llm.test_a_wrong_request_is_refused_before_it_is_admitted,
    test_llm.test_features_equal_hugging_face_and_scores_are_the_heads,
    test_llm.test_the_stopped_have_as_many_tokens_as_the_probe_and_the_others_all,
    test_llm.test_pruning_changes_no_token_of_a_survivor_nor_of_the_stopped,
    test_llm.test_a_new_head_judges_from_the_next_request_on_and_signs_with_its_version,
    test_llm.test_the_worker_forgets_ended_requests,
    test_scarce_memory.test_a_preempted_request_is_scored_once_and_as_if_nothing_had_happened,
    test_scarce_memory.test_a_sibling_that_never_comes_is_waited_for_until_the_deadline,
]


def test_the_second_runner_with_asynchronous_scheduling_keeps_the_same_promises():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
    names = [f"{Path(claim.__code__.co_filename)}::{claim.__name__}" for claim in CLAIMS]
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert f"{len(CLAIMS)} passed" in done.stdout, done.stdout[-4000:] + done.stderr[-2000:]
