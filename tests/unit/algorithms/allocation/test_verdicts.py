"""Verdicts are started when rollouts end and awaited when they can lead to a request, in the order of the ends."""

import math
from types import SimpleNamespace

import numpy as np

from arrol.algorithms.allocation.allocator import Allocator
from arrol.algorithms.allocation.rule import StepShape
from arrol.algorithms.allocation.verdicts import VerdictQueue
from arrol.configs.allocation import AeroAllocation, UniformAllocation
from arrol.types import Completion, FinishReason, Prompt, RolloutId, Verdict


class Task:
    """Writes down when a verdict is started and when it is awaited; the text says the reward."""

    def __init__(self):
        self.log = []

    def submit(self, prompt, text):
        self.log.append(("start", text))

        def wait():
            self.log.append(("wait", text))
            return Verdict(float(text[-1]), text)

        return wait


def queue_of(config):
    task, names = Task(), iter("ab")
    allocator = Allocator(config, StepShape(2, 4), seed=0, max_completion_tokens=16)
    requests = allocator.begin(1, lambda: Prompt(next(names), (5,), "", "7"))

    def submit(rollout_id, completion):
        return task.submit(allocator.prompt(rollout_id.group), "".join(map(str, completion.token_ids)))

    controller = SimpleNamespace(decision=lambda rollout_id: None)
    return VerdictQueue(submit, controller, allocator), task, allocator, requests


def ended(group, index, reward, reason=FinishReason.STOP):
    return RolloutId(1, group, index), Completion((group, index, reward), np.zeros(3, np.float32), reason)


def test_one_wave_is_awaited_at_the_end_only():
    verdicts, task, allocator, _ = queue_of(UniformAllocation())
    for index in range(4):
        for group in (1, 0):
            verdicts.add([ended(group, index, index % 2)])
            assert verdicts.requests() == []
    assert {what for what, _ in task.log} == {"start"}
    started = [text for _, text in task.log]
    assert verdicts.observe() == []
    assert task.log[8:] == [("wait", text) for text in started], "in the order of the ends"
    assert [[r.reward for r in group.rollouts] for group in allocator.groups()] == [[0, 1, 0, 1]] * 2
    assert verdicts.observe() == []


def test_a_wave_is_awaited_when_its_group_has_ended():
    verdicts, task, _, _ = queue_of(AeroAllocation(explore_size=2, rescue_step=2))
    verdicts.add([ended(0, 0, 0), ended(1, 0, 0)])
    assert verdicts.requests() == []
    assert task.log == [("start", "000"), ("start", "100")]
    verdicts.add([ended(0, 1, 0)])
    (request,) = verdicts.requests()
    assert (request.group, request.first, request.size) == (0, 2, 2)
    assert [text for what, text in task.log if what == "wait"] == ["000", "100", "010"]


def test_stopped_and_failed_rollouts_are_not_verified():
    verdicts, task, allocator, _ = queue_of(UniformAllocation())
    verdicts.add([ended(0, 0, 1, FinishReason.PRUNED), ended(0, 1, 1, FinishReason.ERROR), ended(0, 2, 1)])
    verdicts.observe()
    assert [text for what, text in task.log if what == "start"] == ["021"]
    assert [rollout.reward for rollout in allocator.groups()[0].rollouts] == [None, None, 1.0]


def test_a_verdict_without_a_reward_leaves_none_and_is_counted():
    given = iter([Verdict(2.0, None, success=1.0, parts=(("f", 2.0),)), Verdict(math.nan, None, failed=True)])
    allocator = Allocator(UniformAllocation(), StepShape(1, 2), seed=0, max_completion_tokens=16)
    allocator.begin(1, lambda: Prompt("a", (5,), "", "7"))
    verdicts = VerdictQueue(lambda *_: lambda: next(given), SimpleNamespace(decision=lambda _: None), allocator)
    verdicts.add([ended(0, 0, 1), ended(0, 1, 1)])
    verdicts.observe()
    rollouts = allocator.groups()[0].rollouts
    assert [(r.reward, r.success) for r in rollouts] == [(2.0, 1.0), (None, None)]
    assert verdicts.tally.metrics("reward") == {
        "reward/mean": 2.0, "reward/f/mean": 2.0, "reward/failed": 1.0, "reward/missing": 0.0
    }  # fmt: skip
