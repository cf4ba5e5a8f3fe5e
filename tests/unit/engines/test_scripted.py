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
