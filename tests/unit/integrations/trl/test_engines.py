"""Sampling settings of TRL on their way to vLLM."""

from types import SimpleNamespace

from arrol.engines.vllm.sampler import rollout_fields
from arrol.engines.vllm.served import ServedLlm
from arrol.integrations.trl.engines import LlmWithOptions
from arrol.integrations.trl.host import vllm_options
from arrol.types import SamplingParams

UNSET = {"min_p": None, "repetition_penalty": 1.0, "generation_kwargs": None, "vllm_structured_outputs_regex": None}


class Llm:
    """A server's settings without a server."""

    settings = staticmethod(ServedLlm.settings)


def settings(**changes):
    options = vllm_options(SimpleNamespace(**{**UNSET, **changes}))
    fields = rollout_fields(SamplingParams(8, temperature=0.5, stop_token_ids=(2,)), 7, {})
    return LlmWithOptions(Llm(), options).settings(fields)


def test_every_sampling_setting_reaches_each_request():
    plain = settings()
    given = {"min_p": 0.1, "repetition_penalty": 1.2, "generation_kwargs": {"min_tokens": 3, "temperature": 0.7}}
    found = settings(**given, vllm_structured_outputs_regex="[0-9]+")
    more = {"min_p": 0.1, "repetition_penalty": 1.2, "min_tokens": 3, "temperature": 0.7}
    assert found == {**plain, **more, "structured_outputs": {"regex": "[0-9]+"}}
    assert not plain.keys() & {"min_p", "repetition_penalty", "structured_outputs"}
