"""Options under ``arrol``: the host's own, with verl's limits; one line for every mistake."""

import doctest

import pytest

from arrol.configs.allocation import ALLOCATIONS
from arrol.errors import ConfigError
from arrol.integrations.verl import options, rules
from arrol.integrations.verl.options import parse_options


def test_example():
    assert doctest.testmod(options).failed == 0


def test_the_default_is_our_best_rule_on_logprobs():
    parsed = parse_options({})
    assert parsed.host.pruning.rule == "neyman"
    assert parsed.host.quality.features == ("logprobs",)
    assert parsed.host.correction == "plain"
    assert parsed.host.pruning.has_probes
    assert parsed.has_head


@pytest.mark.parametrize(("response_length", "probe"), [(0, 512), (1, 1), (256, 128), (1024, 512), (8192, 512)])
def test_the_default_probe_lies_within_the_response(response_length, probe):
    assert parse_options({}, response_length).host.pruning.probe_tokens == (probe,)
    assert parse_options({"probe_tokens": 16}, response_length).host.pruning.probe_tokens == (16,)


def test_only_two_calls_choose_the_probe_and_never_one_that_is_given():
    given = [{}, {"probe_tokens": 16}, {"way": "engine", "rule": "uniform"}]
    assert [parse_options(values).chooses_probe for values in given] == [True, False, False]


def test_other_fields_of_the_head_may_be_set():
    assert parse_options({"quality": {"hidden_size": 32}}).host.quality.features == ("logprobs",)


def test_the_deadline_is_in_the_unit_of_its_way():
    assert parse_options({}).host.pruning.barrier_timeout == options.BARRIER_TIMEOUT_S
    assert parse_options({"way": "engine", "rule": "uniform"}).host.pruning.barrier_timeout == options.BARRIER_STEPS
    assert parse_options({"barrier_timeout": 5}).host.pruning.barrier_timeout == 5


def test_never_has_probes_only_where_it_observes():
    assert not parse_options({"rule": "never"}).host.pruning.has_probes
    assert parse_options({"rule": "never", "observe": True}).host.pruning.has_probes


@pytest.mark.parametrize(
    ("values", "is_share_of_group"),
    [
        ({"rule": "uniform"}, True),
        ({"rule": "confidence"}, True),
        ({"rule": "balanced"}, True),
        ({"rule": "neyman"}, True),
        ({"rule": "paper"}, False),
        ({"rule": "uniform", "draw": "bernoulli"}, False),
        ({"rule": "neyman", "scope": "batch"}, False),
    ],
    ids=str,
)
def test_rules_of_any_number_of_survivors_are_taken(values, is_share_of_group):
    assert parse_options(values).keeps_share_of_group is is_share_of_group


WAVES = "it asks for more rollouts of a prompt within a step, and verl starts all of them at once"
RULES = "use one of uniform, mopps, greso, knapsack, pods, or train with arrol"
FACTOR = "it multiplies data.train_batch_size; use a whole number, at least 2"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep_ration": 0.5}, "keep_ration = 0.5: unknown key; the nearest known one is 'keep_ratio'"),
        ({"way": "three_calls"}, "way = 'three_calls': unknown; choose one of two_calls, engine"),
        (
            {"correction": "ipw"},
            "correction = 'ipw': verl computes advantages from uid and reward, without 1/survival; use plain, or train "
            "with arrol or TRL",
        ),
        ({"thinning": 0.3}, "thinning = 0.3: verl computes advantages itself; leave it out"),
        ({"algorithm": "mc_grpo"}, "algorithm = 'mc_grpo': verl computes advantages itself; leave it out"),
        (
            {"quality": {"features": ["last_hidden"]}},
            "quality.features = ['last_hidden']: verl's servers return no hidden states; leave it out",
        ),
        ({"rule": "oracle"}, "rule = 'oracle': verl has no place to decide after rewards; use another rule"),
        (
            {"min_survivors": 1},
            "min_survivors = 1: verl gives a lone survivor its raw reward as advantage; use at least 2",
        ),
        ({"allocation": "aero"}, f"allocation.rule = 'aero': {WAVES}; {RULES}"),
        (
            {"allocation": "dapo"},
            f"allocation.rule = 'dapo': verl has it: algorithm.filter_groups.enable=True; {RULES}",
        ),
        (
            {"allocation": "cppo"},
            "allocation.rule = 'cppo': verl computes advantages from the rows that are left, so the baseline of all is "
            f"lost; {RULES}",
        ),
        ({"allocation": {"rule": "greso", "max_draws": 1.5}}, f"allocation.max_draws = 1.5: {FACTOR}"),
        ({"allocation": {"rule": "mopps", "candidates": 1}}, f"allocation.candidates = 1: {FACTOR}"),
        *(
            (
                {"allocation": {"posterior": {"used_for": used_for}}},
                f"allocation.posterior.used_for = {used_for!r}: verl computes advantages itself; leave it out, or "
                "train with arrol or TRL",
            )
            for used_for in ("advantage", "both")
        ),
        *(
            (
                {"allocation": {**rule, "count_truncated": False}},
                "allocation.count_truncated = False: verl trains every row that is left; leave it out, or use "
                "allocation.rule = 'pods', which selects rows",
            )
            for rule in ({}, {"rule": "mopps"})
        ),
        (
            {"allocation": "mopps", "way": "engine"},
            "way = 'engine': survival is unknown there, and allocation rules learn from it; use two_calls",
        ),
    ],
    ids=str,
)
def test_one_line_for_a_mistake(values, message):
    with pytest.raises(ConfigError) as error:
        parse_options(values)
    assert str(error.value) == f"arrol.{message}"


def test_a_value_in_place_of_the_options_is_one_line():
    with pytest.raises(ConfigError) as error:
        parse_options("uniform")
    assert str(error.value) == "arrol = 'uniform': holds the options; set one of them, as in +arrol.rule=neyman"


def test_truncated_rollouts_may_be_left_out_where_rows_are_selected():
    parsed = parse_options({"allocation": {"rule": "pods", "train_size": 2, "count_truncated": False}})
    assert not parsed.host.allocation.count_truncated


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"rule": "extremes", "draw": "bernoulli"},
            "draw = 'bernoulli': extremes ranks siblings, so set 'systematic'",
        ),
        *(
            (
                {"rule": rule, "keep_ratio": keep_ratio},
                f"keep_ratio = {keep_ratio}: outside [min_survival, max_survival] = [0.1, {most}], so it cannot be "
                "met; move it inside, or move the bound",
            )
            for rule, keep_ratio, most in (("balanced", 0.95, 0.9), ("uniform", 0.05, 1))
        ),
    ],
    ids=str,
)
def test_what_every_host_refuses_is_refused_here(values, message):
    with pytest.raises(ConfigError) as error:
        parse_options(values)
    assert str(error.value) == f"arrol.{message}"


@pytest.mark.parametrize(
    ("values", "has_allocation", "is_active"),
    [
        ({"rule": "never"}, False, False),
        ({"rule": "never", "allocation": "mopps"}, True, True),
        ({"rule": "uniform"}, False, True),
    ],
)
def test_an_allocation_rule_is_work_too(values, has_allocation, is_active):
    parsed = parse_options(values)
    assert (parsed.has_allocation, parsed.is_active) == (has_allocation, is_active)


def test_every_rule_is_possible_or_has_its_reason():
    assert rules.USED.keys() | rules.REASONS.keys() == ALLOCATIONS.keys()
    assert not rules.USED.keys() & rules.REASONS.keys()
    assert all(fields <= ALLOCATIONS[name].model_fields.keys() for name, fields in rules.USED.items())


def test_auto_needs_weights_that_verl_has_not():
    message = "arrol.rule = 'auto': needs weights of 1/survival, and verl computes advantages itself; use another rule"
    with pytest.raises(ConfigError) as error:
        parse_options({"rule": "auto"})
    assert str(error.value) == message
