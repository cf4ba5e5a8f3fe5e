"""The public double: what it plays, when it shows a probe, and how a stop looks afterwards."""

import doctest

import numpy as np
import pytest

import arrol.engines.scripted
from arrol.configs.method import NeverRule, UniformRule
from arrol.engines.scripted import ScriptedEngine
from arrol.pruning.controller import PruningController
from arrol.types import FinishReason, GroupRequest, Prompt, Reason, SamplingParams
from arrol.types import RolloutId as Id
from doubles import Spy, requests_for


class Believes:
    version = 0

    def scores(self, features_CF, probe):
        return features_CF[:, 0].astype(float)

    def quality(self, score_C, probe):
        return score_C


def lengths(groups):
    return [[c.num_tokens for c in group] for group in groups]


def reasons(groups):
    return [[str(c.finish_reason) for c in group] for group in groups]


def test_docstring_examples():
    result = doctest.testmod(arrol.engines.scripted)
    assert result.attempted >= 4
    assert result.failed == 0


def test_it_plays_the_script_up_to_the_limit():
    engine = ScriptedEngine(lambda i: range(10, 10 + 3 * i.index + 2))
    groups = engine.generate(requests_for([(5,), (6,)], 3), SamplingParams(5), seed=0)
    assert groups[0][1].token_ids == (10, 11, 12, 13, 14)
    assert lengths(groups) == [[2, 5, 5]] * 2
    assert reasons(groups) == [["stop", "length", "length"]] * 2
    assert groups[0][0].sampler_logprobs_T.shape == (2,)


def test_each_probe_is_shown_once_and_only_to_those_that_go_on():
    """A rollout that ends with its third token is never at the probe of length 3."""
    spy = Spy((1, 3))
    engine = ScriptedEngine(lambda i: [7] * (i.index + 1), lambda i, length: np.float32([length, i.index]))
    groups = engine.generate(requests_for([(5,)], 5), SamplingParams(9), seed=0, controller=spy)
    seen = [(e.rollout_id.index, e.probe) for e in spy.events]
    assert sorted(seen) == [(1, 0), (2, 0), (3, 0), (3, 1), (4, 0), (4, 1)]
    assert all(e.features_F[0] == (1, 3)[e.probe] for e in spy.events)
    assert list(groups[0][4].features_at) == [1, 3]
    np.testing.assert_array_equal(groups[0][4].features_at[3], [3, 4])
    assert groups[0][0].features_at == {}
    assert sorted(r.index for r in spy.ended) == [0, 1, 2, 3, 4]
    assert spy.opened == [(1, 0, 5)]


def test_a_stop_keeps_the_tokens_written_so_far():
    spy = Spy((4,), stops=[Id(1, 0, 1)], late={Id(1, 0, 2): 6})
    groups = ScriptedEngine(lambda i: range(10)).generate(
        requests_for([(5,)], 3), SamplingParams(20), seed=0, controller=spy
    )
    assert lengths(groups) == [[10, 4, 6]]
    assert reasons(groups) == [["stop", "pruned", "pruned"]]
    assert groups[0][1].token_ids == (0, 1, 2, 3)
    assert Id(1, 0, 1) not in spy.ended


def test_a_delayed_rollout_writes_the_same_and_later():
    spy = Spy((2,))
    engine = ScriptedEngine(lambda i: [i.index] * 4, delay=lambda i: 5 * i.index)
    groups = engine.generate(requests_for([(5,)], 2), SamplingParams(9), seed=0, controller=spy)
    assert lengths(groups) == [[4, 4]]
    assert [r.index for r in spy.ended] == [0, 1]
    assert spy.ticks == [float(t) for t in range(1, 10)]


def test_a_late_sibling_passes_the_deadline():
    config = UniformRule(warmup_steps=0, probe_tokens=(2,), barrier_timeout=3, min_survivors=0)
    controller = PruningController(config, Believes(), seed=0)
    engine = ScriptedEngine(
        lambda i: [1] * 40, lambda i, length: np.float32([0.5]), delay=lambda i: 30 if i.index == 3 else 0
    )
    groups = engine.generate(requests_for([(5,)], 4), SamplingParams(60), seed=0, controller=controller)
    decided = controller.decisions(1, 0)
    assert [d.reason for d in decided] == [Reason.DEADLINE] * 3 + [Reason.DRAW]
    for completion, decision in zip(groups[0], decided, strict=True):
        assert (completion.finish_reason is FinishReason.PRUNED) == (not decision.keep)
        waited = 5 if decision.reason is Reason.DEADLINE else 2
        assert decision.keep or waited <= completion.num_tokens <= waited + 1


def test_stopping_siblings_changes_no_survivor():
    requests = [GroupRequest(1, g, Prompt(str(g), (5,), "", ""), 8) for g in range(3)]
    engine = ScriptedEngine(lambda i: [i.group, i.index] * 6, lambda i, length: np.float32([0.5]))
    config = UniformRule(warmup_steps=0, probe_tokens=(4,))
    controller = PruningController(config, Believes(), seed=0)
    pruned = engine.generate(requests, SamplingParams(20), seed=0, controller=controller)
    plain = engine.generate(requests, SamplingParams(20), seed=0)
    assert [sum(c.finish_reason is FinishReason.PRUNED for c in group) for group in pruned] == [4, 4, 4]
    for group, whole in zip(pruned, plain, strict=True):
        for completion, other in zip(group, whole, strict=True):
            assert completion.token_ids == other.token_ids[: completion.num_tokens]


@pytest.mark.parametrize(("observe", "count"), [(False, 0), (True, 2)])
def test_rule_never_looks_only_when_asked(observe, count):
    config = NeverRule(probe_tokens=(1,), observe=observe)
    controller = PruningController(config, Believes(), seed=0)
    engine = ScriptedEngine(lambda i: [1, 2, 3], lambda i, length: np.float32([0.5]))
    groups = engine.generate(requests_for([(5,)], 2), SamplingParams(9), seed=0, controller=controller)
    assert lengths(groups) == [[3, 3]]
    assert len(controller.decisions(1, 0)) == count


class Caller:
    """A ``more`` that plays a list of answers and writes down what it was told."""

    def __init__(self, *answers):
        self.answers, self.told = list(answers), []

    def __call__(self, news):
        self.told.append([rollout_id for rollout_id, _ in news])
        return self.answers.pop(0) if self.answers else []


def wave(group, size, first=0, **changes):
    return GroupRequest(1, group, Prompt(str(group), (5,), "", ""), size, first=first, **changes)


def test_more_begins_in_the_next_step_while_others_still_run():
    """Index 0 ends at step 2, index 1 at step 8; the new one runs from step 3 to step 5."""
    spy = Spy((1,))
    engine = ScriptedEngine(lambda i: [i.index] * {0: 2, 1: 8, 2: 3}[i.index], lambda i, length: np.float32([length]))
    more = Caller([wave(0, 1, first=2)])
    groups = engine.generate([wave(0, 2)], SamplingParams(20), seed=0, controller=spy, more=more)
    assert lengths(groups) == [[2, 8], [3]]
    assert spy.opened == [(1, 0, 2), (1, 0, 1)]
    assert [r.index for r in spy.ended] == [0, 2, 1]
    assert more.told == [[Id(1, 0, 0)], [Id(1, 0, 2)], [Id(1, 0, 1)]]
    assert spy.ticks == [float(t) for t in range(1, 9)]


def test_more_is_told_of_the_stopped_and_results_follow_the_requests():
    spy = Spy((2,), stops=[Id(1, 0, 1)])
    more = Caller([wave(1, 2)], [], [wave(0, 1, first=2), wave(2, 0)])
    engine = ScriptedEngine(lambda i: [i.group, i.index] * 3)
    groups = engine.generate([wave(0, 2)], SamplingParams(20), seed=0, controller=spy, more=more)
    assert more.told[0] == [Id(1, 0, 1)]
    assert sorted(i for told in more.told for i in told) == [
        Id(1, 0, 0),
        Id(1, 0, 1),
        Id(1, 0, 2),
        Id(1, 1, 0),
        Id(1, 1, 1),
    ]
    assert [[c.token_ids[:2] for c in group] for group in groups] == [[(0, 0), (0, 1)], [(1, 0), (1, 1)], [(0, 2)], []]


def test_a_delay_counts_from_the_request():
    spy = Spy((1,))
    engine = ScriptedEngine(lambda i: [1] * 3, delay=lambda i: 4 * i.index)
    engine.generate([wave(0, 1)], SamplingParams(9), seed=0, controller=spy, more=Caller([wave(0, 1, first=1)]))
    assert len(spy.ticks) == 3 + 4 + 3


def test_the_first_wave_is_pruned_and_the_rescue_is_not():
    config = UniformRule(warmup_steps=0, probe_tokens=(4,))
    controller = PruningController(config, Believes(), seed=0)
    engine = ScriptedEngine(lambda i: [i.index] * 6, lambda i, length: np.float32([0.5]))
    more = Caller([], [wave(0, 4, first=8, prune=False)])
    explored, rescued = engine.generate([wave(0, 8)], SamplingParams(20), seed=0, controller=controller, more=more)
    assert sum(c.finish_reason is FinishReason.PRUNED for c in explored) == 4
    assert [c.num_tokens for c in rescued] == [6] * 4
    assert [d.reason for d in controller.decisions(1, 0)] == [Reason.DRAW] * 8 + [Reason.RESCUE] * 4


def test_nothing_asked_is_nothing_written():
    engine = ScriptedEngine(lambda i: [1])
    assert engine.generate([], SamplingParams(9), seed=0, more=Caller([wave(0, 1)])) == []
    assert engine.generate([wave(0, 0)], SamplingParams(9), seed=0, more=Caller([wave(0, 1)])) == [[]]
