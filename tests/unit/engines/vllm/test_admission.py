"""Arguments that are wrong in themselves do not reach the scheduler: vLLM's own check, on either runner."""

import pytest

import vllm_host

if not vllm_host.has_vllm():
    pytest.skip("needs vLLM: make test-vllm", allow_module_level=True)

import torch
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.v1.sample.logits_processor import (
    BatchUpdateBuilder,
    build_logitsprocs,
    validate_logits_processors_parameters,
)
from vllm.v1.worker.gpu.sample.logits_processor import build_custom_logits_processors_params_validator

from arrol.engines.vllm import RequestCheck, pruning_args

NAME = "arrol.engines.vllm:RequestCheck"
"""As on the command line."""
ABOVE = "must be at most"
SHARE = "expected: Share of the candidates that survive, in (0, 1]."
NUMBER = "expected: Rollouts of the group, whether they come as one request with n, or as many."
GOOD = pruning_args(group="g", size=4, probe_tokens=8)


CHECKS = {
    "first runner": lambda params: validate_logits_processors_parameters([NAME], params),
    "second runner": lambda params: build_custom_logits_processors_params_validator([NAME])(params),
}
"""vLLM's check at admission."""


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize(
    ("n", "changes", "message"),
    [
        (4, {"arrol_keep_ratio": 7}, f"arrol_keep_ratio = 7: {ABOVE} 1; {SHARE}"),
        (1, {"arrol_size": 10**12}, f"arrol_size = {10**12}: {ABOVE} 1024; {NUMBER}"),
        (1, {"arrol_index": 4}, "arrol_index = 4: must be less than arrol_size = 4"),
        (5, {}, "n = 5: above arrol_size = 4; set arrol_size to the rollouts of the group"),
        (2, {"arrol_index": 0}, "arrol_index = 0: one index for n = 2 completions; leave it out, or set n=1"),
    ],
)
def test_what_no_group_could_have_is_refused_with_our_words(check, n, changes, message):
    with pytest.raises(VLLMValidationError) as refusal:  # HTTP 400
        check(SamplingParams(n=n, extra_args=GOOD | changes))
    assert str(refusal.value) == message


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize(
    ("n", "arguments"), [(4, GOOD), (2, GOOD), (1, GOOD | {"arrol_index": 3}), (9, None), (9, {"other": 1})]
)
def test_all_others_are_admitted(check, n, arguments):
    check(SamplingParams(n=n, extra_args=arguments))


def test_logits_stay_as_they_are(model):
    """The first runner builds it as the engine does; the second asks each request whether its logits change."""
    processors = build_logitsprocs(vllm_host.engine_config(model), torch.device("cpu"), False, False, (NAME,))
    (ours,) = [one for one in processors.argmax_invariant if isinstance(one, RequestCheck)]
    ours.update_state(BatchUpdateBuilder().get_and_reset(1))
    logits = torch.randn(2, 3)
    assert ours.apply(logits) is logits
    second = RequestCheck(None, None)
    assert second.add_request(0, SamplingParams(extra_args=GOOD)) is False
    assert second.apply(logits, None) is logits


def test_the_first_runner_takes_it_only_without_drafts(model):
    config = vllm_host.engine_config(model, speculative_config=vllm_host.DRAFTS, is_async=False)
    with pytest.raises(ValueError, match=r"^Custom logits processors are not supported when speculative decoding is "):
        build_logitsprocs(config, torch.device("cpu"), False, False, (NAME,))
