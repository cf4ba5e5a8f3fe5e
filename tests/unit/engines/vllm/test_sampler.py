"""Requests out, judgements in, over a double of vLLM's ``LLM``; the real one is met in ``test_engine.py``."""

import base64
import types

import numpy as np
import pytest

from arrol.configs.method import QualityConfig, UniformRule
from arrol.engines.vllm.remote import RemoteController
from arrol.engines.vllm.sampler import LlmSampler, completion_of, rollout_seed
from arrol.errors import ConfigError
from arrol.quality.estimator import QualityEstimator
from arrol.quality.features import FeatureLayout
from arrol.quality.snapshot import EstimatorSnapshot
from arrol.types import FinishReason, GroupRequest, Prompt, RolloutId, SamplingParams

LAYOUT = FeatureLayout(("logprobs",), 4)
KEPT = "kept:score=1;quality=0.75;survival=0.5;probe=0;version=3;reason=draw"
PRUNED = "pruned:score=-1;quality=0.25;survival=0.5;probe=0;version=3;reason=draw"


class FakeLlm:
    """Stops the odd ones."""

    def __init__(self):
        self.rpcs, self.asked = [], []

    @staticmethod
    def settings(fields):
        return fields

    def generate(self, prompts, settings, *, use_tqdm):
        self.asked = settings
        return [types.SimpleNamespace(outputs=[self._output(fields["extra_args"])]) for fields in settings]

    def _output(self, arguments):
        told = None if arguments is None else PRUNED if arguments["arrol_index"] % 2 else KEPT
        logprobs = [{7: types.SimpleNamespace(logprob=-0.25)}] * 2
        return types.SimpleNamespace(token_ids=[7, 7], logprobs=logprobs, finish_reason="stop", stop_reason=told)

    def collective_rpc(self, method, args=()):
        self.rpcs.append((method, *args))
        if method == "arrol_take_features":
            rows = np.arange(3, dtype=np.float32)
            return [{"index": [[5, 0, 1, 2]], "features": base64.b64encode(rows.tobytes()).decode(), "size": 3}]
        return [1]


def test_decisions_features_and_the_head_cross_over():
    estimator = QualityEstimator(QualityConfig(features=("logprobs",)), LAYOUT, (2,), seed=0)
    llm, controller = FakeLlm(), RemoteController(UniformRule(probe_tokens=(2,)), seed=1)
    sampler = LlmSampler(llm, estimator)
    requests = [GroupRequest(5, 0, Prompt("p", (1,), "", ""), 4)]
    (group,) = sampler.generate(requests, SamplingParams(9), seed=1, controller=controller)
    assert [c.finish_reason for c in group] == [FinishReason.STOP, FinishReason.PRUNED] * 2
    assert [d.keep for d in controller.decisions(5, 0)] == [True, False, True, False]
    assert group[1].features_at[2].tolist() == [0, 1, 2]
    assert [name for name, *_ in llm.rpcs] == ["arrol_set_estimator", "arrol_take_features"]
    assert EstimatorSnapshot.from_bytes(base64.b64decode(llm.rpcs[0][1])).probe_tokens == (2,)
    assert len({fields["seed"] for fields in llm.asked}) == 4
    sampler.generate(requests, SamplingParams(9), seed=1, controller=controller)
    assert [name for name, *_ in llm.rpcs].count("arrol_set_estimator") == 1  # it has not changed


def test_without_a_controller_nothing_of_ours_is_asked():
    llm = FakeLlm()
    LlmSampler(llm).generate([GroupRequest(0, 0, Prompt("p", (1,), "", ""), 2)], SamplingParams(9), seed=1)
    assert [fields["extra_args"] for fields in llm.asked] == [None, None]
    assert llm.rpcs == []


def test_a_refused_request_is_an_error_with_vllms_words():
    output = types.SimpleNamespace(stop_reason="refused:arrol_keep_ratio = 7: at most 1", token_ids=[])
    with pytest.raises(ConfigError, match="arrol_keep_ratio = 7"):
        completion_of(output)


def test_seeds_depend_on_the_run_and_the_rollout_alone():
    assert rollout_seed(1, RolloutId(1, 2, 3)) == rollout_seed(1, RolloutId(1, 2, 3))
    assert rollout_seed(1, RolloutId(1, 2, 3)) != rollout_seed(2, RolloutId(1, 2, 3))
    assert 0 <= rollout_seed(0, RolloutId(0, 0, 0)) < 2**63
