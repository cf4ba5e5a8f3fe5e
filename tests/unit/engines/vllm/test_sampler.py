"""Requests out, judgements in, over a double of vLLM's ``LLM``; the real one is met in ``test_engine.py``."""

import base64
import types
from dataclasses import replace

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
        self.rpcs, self.asked, self.set_answers = [], [], [{"version": 1}]

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
        return self.set_answers


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
    run = llm.asked[0]["extra_args"]["arrol_run"]
    assert llm.rpcs[1] == ("arrol_take_features", run)
    assert EstimatorSnapshot.from_bytes(base64.b64decode(llm.rpcs[0][1])).probe_tokens == (2,)
    assert len({fields["seed"] for fields in llm.asked}) == 4
    sampler.generate(requests, SamplingParams(9), seed=1, controller=controller)
    assert [name for name, *_ in llm.rpcs].count("arrol_set_estimator") == 1  # it has not changed


def test_a_head_that_one_rank_refuses_is_one_error_and_is_sent_again():
    llm = FakeLlm()
    sampler = LlmSampler(llm, QualityEstimator(QualityConfig(features=("logprobs",)), LAYOUT, (2,), seed=0))
    llm.set_answers = [{"version": 0}, {"refused": "estimator.model = other: why"}]
    with pytest.raises(ConfigError, match=r"^estimator.model = other: why$"):
        sampler.push_estimator()
    llm.set_answers = [{"version": 0}] * 2
    sampler.push_estimator()
    sampler.push_estimator()
    assert len(llm.rpcs) == 2


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


class SteppedLlm(FakeLlm):
    """``enqueue`` and ``llm_engine`` as vLLM has them: two rows, each rollout ends as many steps later as its turn."""

    def __init__(self):
        super().__init__()
        self.llm_engine, self.count = self, 0
        self.queue, self.running, self.aborted, self.ran = [], {}, [], []

    def enqueue(self, prompts, settings, *, use_tqdm):
        self.asked += settings
        names = []
        for fields in settings:
            self.queue.append((str(self.count), fields))
            names.append(f"{self.count}-0a1b2c3d")
            self.count += 1
        return names

    def step(self):
        while self.queue and len(self.running) < 2:
            name, fields = self.queue.pop(0)
            self.running[name] = [1 + int(name) % 3, fields]
        self.ran.append(len(self.running))
        answers = []
        for name, row in list(self.running.items()):
            row[0] -= 1
            output = self._output(row[1]["extra_args"])
            answers.append(types.SimpleNamespace(request_id=name, finished=not row[0], outputs=[output]))
            if not row[0]:
                del self.running[name]
        return answers

    def abort_request(self, names):
        self.aborted += names


ONE = GroupRequest(5, 0, Prompt("p", (1,), "", ""), 4)
RULE = UniformRule(probe_tokens=(2,))


class Waves:
    """One wave for each of the first ends, the last of which may not be stopped."""

    def __init__(self, controller=None):
        self.left = [replace(ONE, first=4, size=2), replace(ONE, first=6, size=2, prune=False)]
        self.told, self.controller, self.decided = [], controller, []

    def __call__(self, news):
        self.told += [rollout_id.index for rollout_id, _ in news]
        if self.controller is not None:
            self.decided.append(len(self.controller.decisions(5, 0)))
        return [self.left.pop(0)] if self.left else []


@pytest.mark.parametrize("kind", [FakeLlm, SteppedLlm])
def test_more_goes_out_with_its_place_and_comes_back_behind(kind):
    llm, controller = kind(), RemoteController(RULE, seed=1)
    more = Waves(controller)
    groups = LlmSampler(llm).generate([ONE], SamplingParams(9), seed=1, controller=controller, more=more)
    assert [len(group) for group in groups] == [4, 2, 2]
    assert sorted(more.told) == list(range(8))
    assert [d.rollout_id.index for d in controller.decisions(5, 0)] == list(range(8))
    assert [d.reason for d in controller.decisions(5, 0)] == ["draw"] * 6 + ["rescue"] * 2
    assert more.decided[-1] == 8
    assert groups[0][1].features_at[2].tolist() == [0, 1, 2]


def test_a_stepped_llm_is_never_drained():
    llm, more = SteppedLlm(), Waves()
    LlmSampler(llm).generate([ONE], SamplingParams(9), seed=1, more=more)
    assert llm.ran[:-1] == [2] * (len(llm.ran) - 1)
    assert len({fields["seed"] for fields in llm.asked}) == 8
    assert llm.aborted == []


def test_arguments_of_waves_count_from_their_own_beginning():
    llm, controller = SteppedLlm(), RemoteController(RULE, seed=1)
    LlmSampler(llm).generate([ONE], SamplingParams(9), seed=1, controller=controller, more=Waves())
    said = [fields["extra_args"] for fields in llm.asked]
    assert [a["arrol_index"] for a in said] == [0, 1, 2, 3, 0, 1, 0, 1]
    assert [a.get("arrol_first", 0) for a in said] == [0] * 4 + [4] * 2 + [6] * 2
    assert [a["arrol_size"] for a in said] == [4] * 4 + [2] * 4
    assert ["arrol_later" in a for a in said] == [False] * 4 + [True] * 4
    assert [a["arrol_rule"] for a in said] == ["uniform"] * 6 + ["never"] * 2
    assert all(a["arrol_group"] == "0" for a in said)


def test_an_error_on_the_way_leaves_an_idle_engine():
    def fails(news):
        raise RuntimeError("mine")

    llm = SteppedLlm()
    with pytest.raises(RuntimeError, match="mine"):
        LlmSampler(llm).generate([ONE], SamplingParams(9), seed=1, more=fails)
    assert llm.aborted == ["1", "2", "3"]


def test_ends_are_scored_in_later_waves_too():
    llm = SteppedLlm()
    LlmSampler(llm).generate([ONE], SamplingParams(9), seed=1, more=Waves(), score_ends=True)
    assert all(fields["extra_args"]["arrol_score_end"] for fields in llm.asked)
    assert [fields["extra_args"]["arrol_index"] for fields in llm.asked] == [0, 1, 2, 3, 0, 1, 0, 1]


def test_stop_strings_are_refused_since_vllm_runs_without_a_tokenizer_here():
    with pytest.raises(
        ConfigError, match=r"sampling.stop = \['x'\]: this engine reads no text; use the embedded engine"
    ):
        LlmSampler(None).generate([], SamplingParams(3, stop=("x",)), seed=0)
