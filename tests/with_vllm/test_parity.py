"""The parity table with vLLM's own scheduler: real requests, draws and reports; tokens and scores as recorded."""

import types
from dataclasses import replace

import pytest
from vllm.v1.request import RequestStatus

from arrol.engines.vllm.remote import RemoteController
from arrol.engines.vllm.sampler import LlmSampler, rollout_seed
from arrol.engines.vllm.scheduler import PruningScheduler
from arrol.pruning.ledger import Ledger
from arrol.types import FinishReason, RolloutGroup
from parity import LENGTH, SCENARIOS, SEED, Judge, Outcome, assert_same, ended, lessons_of, params, played, recorded
from vllm_host import SchedulerLoop, engine_config, leftovers


class RecordedScheduler(PruningScheduler):
    """Judges the tape's scores as the tape did; requests fail at the length that ``fails_at`` gives."""

    fails_at = staticmethod(lambda name: None)

    def _estimator_for(self, pruning):
        return Judge()

    def _scored_after(self, outputs):
        return []  # the tape's worker scores, though no head came with it

    def _update_request_with_output(self, request, new_token_ids, **others):
        new_token_ids, stopped = super()._update_request_with_output(request, new_token_ids, **others)
        if request.num_output_tokens == self.fails_at(request.request_id):
            request.status, stopped = RequestStatus.FINISHED_ERROR, True
        return new_token_ids, stopped


class RecordedLlm:
    """vLLM's ``LLM`` over its scheduler: each rollout writes, and fails, as it did in a run without stops."""

    def __init__(self, config, whole, scores):
        self.whole, self.scores, self.rollouts, self.llm_engine = whole, scores, {}, self
        self.by_seed = {rollout_seed(SEED, rollout_id): rollout_id for rollout_id in whole}
        self.loop = SchedulerLoop(
            config, RecordedScheduler, depth=1,
            score=lambda name, length: 0.0 if length is None else scores[self.rollouts[name], length],
            token=lambda name, index: whole[self.rollouts[name]].token_ids[index],
        )  # fmt: skip
        self.loop.scheduler.fails_at = self.fails_at

    def fails_at(self, name):
        whole = self.whole[self.rollouts[name]]
        return whole.num_tokens if whole.finish_reason is FinishReason.ERROR else None

    @staticmethod
    def settings(fields):
        return fields

    def generate(self, prompts, settings, /, *, use_tqdm):
        names = [name.partition("-")[0] for name in self.enqueue(prompts, settings, use_tqdm=use_tqdm)]
        answers = {}
        while len(answers) < len(names):
            answers |= {answer.request_id: answer for answer in self.step()}
        return [answers[name] for name in names]

    def collective_rpc(self, method, *, args=()):
        return []

    def enqueue(self, prompts, settings, /, *, use_tqdm):
        names = []
        for fields in settings:
            name = str(len(self.rollouts))
            self.rollouts[name] = self.by_seed[fields["seed"]]
            stops = {"stop_token_ids": fields["stop_token_ids"]}
            self.loop.add(name, LENGTH, pruning=fields["extra_args"], **stops)
            names.append(f"{name}-internal")
        return names

    def step(self):
        known = set(self.loop.answers)
        self.loop.step()
        return [self.answer(name) for name in sorted(self.loop.answers.keys() - known, key=int)]

    def answer(self, name):
        output, whole, length = self.loop.answers[name], self.whole[self.rollouts[name]], self.loop.tokens(name)
        logprobs = [
            {token: types.SimpleNamespace(logprob=value)}
            for token, value in zip(whole.token_ids, whole.sampler_logprobs_T[:length], strict=False)
        ]
        completion = types.SimpleNamespace(
            token_ids=whole.token_ids[:length], logprobs=logprobs,
            finish_reason=str(output.finish_reason), stop_reason=output.stop_reason,
        )  # fmt: skip
        return types.SimpleNamespace(request_id=name, finished=True, outputs=[completion])


def waves_of(scenario, requests):
    """``more`` as the tape asked it, and the list that it fills."""
    running, waves = {request.group: request.size for request in requests}, []

    def more(news):
        asked = []
        for rollout_id, _ in news:
            if rollout_id.index < scenario.sizes[rollout_id.group]:
                running[rollout_id.group] -= 1
                if not running[rollout_id.group]:
                    first = requests[rollout_id.group]
                    asked.append(replace(first, size=scenario.wave, first=first.size))
        waves.extend(asked)
        return asked

    return more, waves


@pytest.mark.parametrize("name", SCENARIOS)
def test_vllms_scheduler_decides_and_counts_as_the_embedded_engine(model, name):
    scenario, (steps, wanted) = SCENARIOS[name], recorded(name)
    probes = scenario.host.pruning.probe_tokens
    observed = played(replace(scenario, rule={"rule": "never", "observe": True, "probe_tokens": list(probes)}))
    whole = {i: completion for step in observed for i, completion in ended(step).items()}
    events = [e for step in observed for told in step.events if told.name == "probed" for e in told.values]
    scores = {(e.rollout_id, probes[e.probe]): float(e.features_F[2]) for e in events}

    def new_run():
        config = engine_config(model, is_async=False, max_num_seqs=scenario.rows)
        return RecordedLlm(config, whole, scores), RemoteController(scenario.host.pruning, seed=SEED)

    (llm, controller), found, ledger = new_run(), Outcome(), Ledger()
    for number, step in enumerate(steps, 1):
        if number > 1 and scenario.resumed:
            llm, controller = new_run()
        requests = [request for request in step.requests if not request.first]
        more, waves = waves_of(scenario, requests)
        written = LlmSampler(llm).generate(
            requests, params(), seed=SEED, controller=controller, more=more if scenario.wave else None
        )
        groups = [
            RolloutGroup.of(request, completions, controller.decisions(number, request.group))
            for request, completions in zip([*requests, *waves], written, strict=True)
        ]
        for late in groups[len(requests) :]:
            groups[late.rollouts[0].rollout_id.group].rollouts.extend(late.rollouts)
        groups = groups[: len(requests)]
        for group, reference in zip(groups, step.groups, strict=True):
            for rollout, theirs in zip(group.rollouts, reference.rollouts, strict=True):
                rollout.reward = theirs.reward if rollout.survived else None
        found.add(groups, ledger)
        found.lessons.append(lessons_of(scenario, groups))
        assert {what for what, count in leftovers(llm.loop.scheduler).items() if count} == set()
    assert_same("vllm", name, found, wanted)
