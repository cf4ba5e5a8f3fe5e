"""What the trainer holds while vLLM's scheduler decides."""

import pytest

from arrol.configs.method import BalancedRule, NeverRule, NeymanRule, OracleRule
from arrol.engines.vllm.remote import RemoteController
from arrol.engines.vllm.request import StopReport, parse_args
from arrol.types import GroupRequest, Prompt, PruningDecision, Reason, RolloutId

PROMPT = Prompt("a", (5, 6), "a", "7")
REQUESTS = [GroupRequest(3, group, PROMPT, 4, success_rate=0.25) for group in range(2)]


def decision(group, index, *, keep=True, reason=Reason.DRAW):
    return PruningDecision(RolloutId(3, group, index), 0, keep, 0.5, reason, 1.5, 0.4, 2)


def opened(controller, requests):
    for request in requests:
        controller.open(request.step, request.group, request.size, request.success_rate, prune=request.prune)


def test_arguments_carry_the_whole_rule_and_the_address():
    rule = BalancedRule(keep_ratio=0.25, probe_tokens=(8, 16), max_survival=0.8, min_survivors=1)
    controller = RemoteController(rule, seed=7)
    parsed = parse_args(controller.arguments(REQUESTS[1], 2, num_groups=2))
    assert parsed.rule == rule
    assert (parsed.step, parsed.group, parsed.index, parsed.size) == (3, "1", 2, 4)
    assert (parsed.seed, parsed.success_rate, parsed.report, parsed.batch_groups) == (7, 0.25, True, None)


def test_two_trainers_of_one_configuration_name_their_runs():
    one, other = (
        parse_args(RemoteController(NeymanRule(probe_tokens=(8,)), seed=0).arguments(REQUESTS[0], 0, num_groups=2))
        for _ in range(2)
    )
    assert one.run != other.run
    assert (one.rule, one.seed) == (other.rule, other.seed)


def test_a_rule_over_the_batch_says_how_many_groups_there_are():
    controller = RemoteController(NeymanRule(scope="batch", probe_tokens=(8,)), seed=0)
    assert parse_args(controller.arguments(REQUESTS[0], 0, num_groups=2)).batch_groups == 2


def test_without_probes_there_are_no_arguments():
    controller = RemoteController(NeverRule(probe_tokens=(8,)), seed=0)
    assert controller.probe_tokens == ()
    assert controller.arguments(REQUESTS[0], 0, num_groups=2) == {}


@pytest.mark.parametrize("rule", [NeverRule(observe=True, probe_tokens=(8,)), OracleRule(probe_tokens=(8,))])
def test_rules_that_only_look_are_sent_as_an_observing_never(rule):
    parsed = parse_args(RemoteController(rule, seed=0).arguments(REQUESTS[0], 0, num_groups=2))
    assert parsed.rule == NeverRule(observe=True, probe_tokens=(8,))


def test_decisions_come_back_by_group_in_the_order_of_their_ids():
    controller = RemoteController(NeymanRule(probe_tokens=(8,)), seed=0)
    opened(controller, REQUESTS)
    for one in (decision(1, 3), decision(1, 0, keep=False), decision(0, 2)):
        controller.decided(one)
    assert [d.rollout_id.index for d in controller.decisions(3, 1)] == [0, 3]
    assert controller.decision(RolloutId(3, 1, 0)).keep is False
    assert controller.decision(RolloutId(3, 1, 1)) is None
    controller.open(4, 0, 4)
    assert controller.decisions(4, 0) == []
    with pytest.raises(KeyError):
        controller.decisions(3, 1)


def test_a_report_survives_the_trip():
    there = decision(1, 2)
    assert StopReport.parse(str(StopReport.of(there))).decision(there.rollout_id) == there


def test_there_is_nothing_to_save():
    controller = RemoteController(NeymanRule(probe_tokens=(8,)), seed=0)
    controller.load(controller.save())
    assert controller.save() == {}


def test_a_later_wave_says_where_it_begins_and_joins_the_decisions_of_its_group():
    controller = RemoteController(NeymanRule(probe_tokens=(8,), scope="batch"), seed=0)
    wave = GroupRequest(3, 1, PROMPT, 2, first=4)
    parsed = parse_args(controller.arguments(wave, 5, num_groups=2, later=True))
    assert (parsed.group, parsed.first, parsed.index, parsed.size, parsed.later) == ("1", 4, 1, 2, True)
    assert parsed.batch_groups == 2
    opened(controller, REQUESTS)
    controller.decided(decision(1, 0))
    opened(controller, [wave])
    for one in (decision(1, 5), decision(1, 3)):
        controller.decided(one)
    assert [d.rollout_id.index for d in controller.decisions(3, 1)] == [0, 3, 5]


@pytest.mark.parametrize("rule", [NeymanRule(probe_tokens=(8,), scope="batch"), OracleRule(probe_tokens=(8,))])
def test_rollouts_that_may_not_be_stopped_are_observed_and_reported_as_rescued(rule):
    controller = RemoteController(rule, seed=0)
    rescue = GroupRequest(3, 1, PROMPT, 2, first=4, prune=False)
    parsed = parse_args(controller.arguments(rescue, 4, num_groups=2, later=True))
    assert parsed.rule == NeverRule(observe=True, probe_tokens=(8,))
    assert (parsed.first, parsed.index, parsed.batch_groups) == (4, 0, None)
    opened(controller, [REQUESTS[1], rescue])
    for one in (decision(1, 0), decision(1, 4, reason=Reason.RULE_NEVER)):
        controller.decided(one)
    assert [d.reason for d in controller.decisions(3, 1)] == [Reason.DRAW, Reason.RESCUE]
