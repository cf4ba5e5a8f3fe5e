"""The parity table: hosts that need no package of their own, played from the tape of the embedded engine."""

import numpy as np
import pytest

from arrol.engines.scripted import ScriptedEngine
from arrol.engines.vllm.groups import GroupBook, ProbeScore
from arrol.engines.vllm.request import parse_args, pruning_args
from arrol.pruning.controller import PruningController
from arrol.pruning.ledger import Ledger
from arrol.types import FinishReason, Reason, RolloutGroup
from parity import (
    DIFFERENCES,
    LENGTH,
    SCENARIOS,
    SEED,
    Judge,
    Outcome,
    assert_same,
    ended,
    lessons_of,
    params,
    played,
    recorded,
    requests_of,
    stopped,
)

each_scenario = pytest.mark.parametrize("name", SCENARIOS)


def decisions_of(name, *, step=0):
    steps, outcome = recorded(name)
    return steps[step], [d for i, d in outcome.decisions.items() if i.step == step + 1]


def test_the_scenarios_are_what_their_names_say():
    for name in SCENARIOS:
        step, decisions = decisions_of(name)
        reasons = {decision.reason for decision in decisions}
        assert (name == "never") == (not decisions)
        assert stopped(step) or name in ("never", "warm_up", "a_resumed_run"), name
        assert (Reason.DEADLINE in reasons) == (name == "a_deadline"), name
    assert {decision.probe for decision in decisions_of("two_probes")[1]} == {0, 1}
    early = ended(decisions_of("early_siblings")[0])
    assert any(c.num_tokens < 8 and c.finish_reason is FinishReason.STOP for c in early.values())
    errors = [c for c in ended(decisions_of("an_error")[0]).values() if c.finish_reason is FinishReason.ERROR]
    assert any(c.num_tokens < 4 for c in errors)
    assert {len(group.rollouts) for group in decisions_of("a_late_wave")[0].groups} == {8}
    assert all(group.num_survivors >= 5 for group in decisions_of("a_floor")[0].groups)
    assert all(d.reason is Reason.WARMUP for d in decisions_of("warm_up")[1])
    full = ended(decisions_of("truncated_rows_do_not_count")[0])
    assert any(c.finish_reason is FinishReason.LENGTH for c in full.values())


def test_failed_rollouts_do_not_fill_the_floor():
    """Of four rollouts two fail before the probe: with a floor of two, both healthy ones are kept."""
    step, _ = decisions_of("an_error")
    groups = [[r.completion for r in group.rollouts] for group in step.groups]
    early = [sum(c.finish_reason is FinishReason.ERROR and c.num_tokens < 4 for c in group) for group in groups]
    stops = [sum(c.finish_reason is FinishReason.PRUNED for c in group) for group in groups]
    assert (early, stops) == ([2, 1, 0], [0, 0, 2])


def test_two_probes_count_each_rollout_once():
    _, outcome = recorded("two_probes")
    (metrics,) = outcome.metrics
    assert metrics["pruning/candidates"] == len(outcome.decisions) <= 16
    kept = [decision.keep for decision in outcome.decisions.values()]
    assert metrics["pruning/kept_frac"] == pytest.approx(np.mean(kept))


def test_a_run_that_never_prunes_holds_the_groups_of_one_step():
    steps, _ = recorded("never")
    assert [step.held for step in steps] == [2, 2]


def test_a_resumed_run_decides_as_one_that_was_not_interrupted():
    scenario = SCENARIOS["a_resumed_run"]
    whole = played(scenario, interrupted=False)
    resumed, _ = recorded("a_resumed_run")
    for one, other in zip(whole, resumed, strict=True):
        assert [r.decision for g in one.groups for r in g.rollouts] == [
            r.decision for g in other.groups for r in g.rollouts
        ]


def test_truncated_rows_that_do_not_count_drop_a_group_that_is_uniform_without_them():
    """A group whose rewards differ by its truncated rollout alone: the rule dapo drops it."""
    (step,), outcome = recorded("truncated_rows_do_not_count")
    spreads = set()
    for group in step.groups:
        counted = {r.reward for r in group.survivors if not r.is_truncated}
        spreads.add((len(counted), len({r.reward for r in group.survivors})))
        trains = {i for i in outcome.lessons[0] if i.group == group.rollouts[0].rollout_id.group}
        assert bool(trains) == (len(counted) == 2)
    assert {(1, 2), (2, 2)} <= spreads


def test_equal_survivors_train_where_they_weigh_for_stopped_siblings():
    """The rule dapo drops only uniform groups of which no rollout was drawn."""
    (step,), outcome = recorded("equal_survivors_train")
    trained = {rollout_id.group for rollout_id in outcome.lessons[0]}
    alike = [group for group in step.groups if len({r.reward for r in group.survivors}) == 1]
    assert alike
    assert all(len(group.survivors) < len(group.rollouts) for group in alike)
    assert trained == {group.rollouts[0].rollout_id.group for group in step.groups}


@each_scenario
def test_the_scripted_engine(name):
    if name in ("a_deadline", "a_late_wave"):
        pytest.skip("the scripted engine has as many rows as rollouts, and its waves are tested in test_allocation")
    scenario, (steps, wanted) = SCENARIOS[name], recorded(name)
    controller = PruningController(scenario.host.pruning, Judge(), seed=SEED)
    found, ledger = Outcome(), Ledger()
    probes = scenario.host.pruning.probe_tokens
    whole = played(SCENARIOS[name].__class__(**{**vars(scenario), "rule": {"rule": "never", "observe": True}}))
    for number, (step, all_of_it) in enumerate(zip(steps, whole, strict=True), 1):
        written = {**ended(all_of_it)}
        probed = {e.rollout_id: {} for told in step.events if told.name == "probed" for e in told.values}
        for told in step.events:
            for event in told.values if told.name == "probed" else ():
                probed[event.rollout_id][event.probe] = event.features_F
        engine = ScriptedEngine(
            lambda i, written=written: written[i].token_ids,
            lambda i, length, probed=probed: probed[i][probes.index(length)],
            fails_at=lambda i, written=written: (
                written[i].num_tokens if written[i].finish_reason is FinishReason.ERROR else None
            ),
        )
        requests = requests_of(scenario, number)
        completions = engine.generate(requests, params(), seed=SEED, controller=controller)
        groups = [
            RolloutGroup.of(request, part, controller.decisions(number, request.group))
            for request, part in zip(requests, completions, strict=True)
        ]
        for group, reference in zip(groups, step.groups, strict=True):
            for rollout, theirs in zip(group.rollouts, reference.rollouts, strict=True):
                assert rollout.completion.token_ids == theirs.completion.token_ids
                rollout.reward = theirs.reward
        found.add(groups, ledger)
        found.lessons.append(lessons_of(scenario, groups))
        assert len(controller._groups) == len(scenario.sizes)
    assert_same("scripted", name, found, wanted)


@each_scenario
def test_the_groups_of_vllms_scheduler(name):
    """Decisions of :class:`GroupBook`, told of requests as the scheduler tells it."""
    scenario, (steps, wanted) = SCENARIOS[name], recorded(name)
    found = Outcome()
    book = GroupBook(lambda pruning: Judge())
    for number, step in enumerate(steps, 1):
        if number > 1 and scenario.resumed:
            book = GroupBook(lambda pruning: Judge())
        _play_book(book, scenario, step, number, found)
    assert_same("vllm", name, found, wanted)


def _play_book(book, scenario, step, number, found):
    rule = scenario.host.pruning.model_dump(mode="json")
    asked = {(request.group, request.first): request for request in step.requests}
    first = dict.fromkeys(range(len(scenario.sizes)), 0)
    for told in step.events:
        if told.name == "open":
            request = asked[told.values[1], first[told.values[1]]]
            first[request.group] += request.size
            for rollout_id in request.rollout_ids:
                pruning = pruning_args(
                    group=str(request.group), size=request.size, index=rollout_id.index - request.first,
                    first=request.first or None, later=bool(request.first) or None, step=number, seed=SEED,
                    batch_groups=len(scenario.sizes) if rule.get("scope") == "batch" else None,
                    success_rate=request.success_rate, report=True, **rule,
                )  # fmt: skip
                if pruning and parse_args(pruning).probe_tokens:
                    book.add(str(rollout_id), parse_args(pruning))
            continue
        names = {str(i): i for i in ended(step)}
        if told.name == "probed":
            probes = scenario.host.pruning.probe_tokens
            book.probed(
                [
                    ProbeScore(str(e.rollout_id), probes[e.probe], float(e.features_F[2]), e.confidence)
                    for e in told.values
                ]
            )
        elif told.name == "tick":
            book.tick()
        else:
            _note(book, [str(i) for i in told.values], names, found)
            book.ended([str(i) for i in told.values], lost=told.name == "lost")
        stops = book.take_stops()
        _note(book, stops, names, found)
        book.ended(stops, lost=True)
    _note(book, [i for i in names if i in book], names, found)


def _note(book, request_ids, names, found):
    for request_id in request_ids:
        decision = book.decision(request_id)
        if decision is not None:
            found.decisions[names[request_id]] = decision


def test_every_difference_names_a_scenario():
    assert {name for _, name in DIFFERENCES} <= SCENARIOS.keys()
    assert LENGTH > 8
