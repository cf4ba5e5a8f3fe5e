"""Options under ``arrol``: the host's own, with verl's limits; one line for every mistake."""

import doctest

import pytest

from arrol.configs.allocation import ALLOCATIONS
from arrol.errors import ConfigError
from arrol.integrations.verl import options, rules
from arrol.integrations.verl.options import parse_options


def test_example():
    assert doctest.testmod(options).failed == 0


def test_nothing_said_is_our_best_rule_on_logprobs():
    parsed = parse_options({})
    assert parsed.host.pruning.rule == "neyman"
    assert parsed.host.quality.features == ("logprobs",)
    assert parsed.host.correction == "plain"
    assert parsed.looks
    assert parsed.learns


def test_other_fields_of_the_head_may_be_said():
    assert parse_options({"quality": {"hidden_size": 32}}).host.quality.features == ("logprobs",)


def test_the_deadline_is_in_the_unit_of_its_way():
    assert parse_options({}).host.pruning.barrier_timeout == options.BARRIER_TIMEOUT_S
    assert parse_options({"way": "engine", "rule": "uniform"}).host.pruning.barrier_timeout == options.BARRIER_STEPS
    assert parse_options({"barrier_timeout": 5}).host.pruning.barrier_timeout == 5


def test_never_looks_at_nobody_unless_it_observes():
    assert not parse_options({"rule": "never"}).looks
    assert parse_options({"rule": "never", "observe": True}).looks


@pytest.mark.parametrize("rule", ["uniform", "confidence", "balanced", "neyman"])
def test_rules_of_constant_count_are_taken(rule):
    assert parse_options({"rule": rule}).host.pruning.rule == rule


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"keep_ration": 0.5}, ["arrol.keep_ration = 0.5", "'keep_ratio'"]),
        ({"way": "three_calls"}, ["arrol.way = 'three_calls'", "two_calls, engine"]),
        ({"correction": "ipw"}, ["arrol.correction = 'ipw'", "plain"]),
        ({"quality": {"features": ["last_hidden"]}}, ["arrol.quality.features", "[logprobs]"]),
        ({"rule": "oracle"}, ["arrol.rule = 'oracle'", "another rule"]),
        ({"rule": "paper"}, ["arrol.rule = 'paper'", "padding"]),
        ({"rule": "uniform", "draw": "bernoulli"}, ["draw 'bernoulli'", "systematic"]),
        ({"rule": "neyman", "scope": "batch"}, ["scope 'batch'", "scope group"]),
        ({"min_survivors": 1}, ["arrol.min_survivors = 1", "2 or more"]),
        ({"algorithm": "mc_grpo"}, ["arrol.algorithm = 'mc_grpo'", "leave it out"]),
        ({"allocation": "podz"}, ["arrol.allocation.rule = 'podz'", "'pods'"]),
        ({"allocation": "aero"}, ["arrol.allocation.rule = 'aero'", "padding"]),
        ({"allocation": "dapo"}, ["arrol.allocation.rule = 'dapo'", "filter_groups.enable=True"]),
        ({"allocation": "cppo"}, ["arrol.allocation.rule = 'cppo'", "baseline of all"]),
        ({"allocation": "knapsack"}, ["arrol.rule = 'neyman'", "differ in size", "'never'"]),
        ({"allocation": {"rule": "knapsack", "rollout_budget": 9}, "rule": "never"}, ["rollout_budget = 9"]),
        ({"allocation": {"rule": "greso", "max_draws": 1.5}}, ["max_draws = 1.5", "whole number"]),
        ({"allocation": {"rule": "mopps", "candidates": 1}}, ["candidates = 1", "at least 2"]),
        ({"allocation": {"posterior": {"used_for": "advantage"}}}, ["used_for = 'advantage'", "verl computes"]),
        ({"allocation": "mopps", "way": "engine"}, ["arrol.way = 'engine'", "two_calls"]),
    ],
)
def test_one_line_for_a_mistake(values, words):
    with pytest.raises(ConfigError) as error:
        parse_options(values)
    assert "\n" not in str(error.value)
    assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize(
    ("values", "allocates", "acts"),
    [
        ({"rule": "never"}, False, False),
        ({"rule": "never", "allocation": "mopps"}, True, True),
        ({"rule": "uniform"}, False, True),
    ],
)
def test_an_allocation_rule_is_work_too(values, allocates, acts):
    parsed = parse_options(values)
    assert (parsed.allocates, parsed.acts) == (allocates, acts)


def test_every_rule_is_possible_or_has_its_reason():
    assert rules.USED.keys() | rules.REASONS.keys() == ALLOCATIONS.keys()
    assert not rules.USED.keys() & rules.REASONS.keys()
    assert all(fields <= ALLOCATIONS[name].model_fields.keys() for name, fields in rules.USED.items())
