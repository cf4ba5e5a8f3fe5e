"""Variants and their vetted defaults, and the promises between their fields."""

from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from arrol.configs.method import (
    AlgorithmConfig,
    AutoRule,
    DapoConfig,
    DrGrpoConfig,
    GrpoConfig,
    NeverRule,
    NeymanRule,
    PaperRule,
    PruningConfig,
    QualityConfig,
    UniformRule,
)

RULES = get_args(get_args(PruningConfig)[0])


@pytest.mark.parametrize("rule", RULES)
def test_naming_a_rule_gives_its_defaults(rule):
    name = rule.model_fields["rule"].default
    assert TypeAdapter(PruningConfig).validate_python({"rule": name}) == rule()
    assert 0 < rule().keep_ratio <= 1


def test_every_rule_uses_probes_but_never_without_observing():
    for rule in RULES:
        assert rule().has_probes is (rule is not NeverRule)
    assert NeverRule(observe=True).has_probes


def test_naming_an_algorithm_gives_its_defaults():
    parse = TypeAdapter(AlgorithmConfig).validate_python
    assert parse({"name": "grpo"}) == GrpoConfig()
    assert parse({"name": "dr_grpo"}) == DrGrpoConfig()
    assert parse({"name": "dapo"}) == DapoConfig()
    grpo, dr_grpo, dapo = GrpoConfig(), DrGrpoConfig(), DapoConfig()
    assert (grpo.normalize_by_std, grpo.aggregation) == (True, "sequence_mean")
    assert (dr_grpo.normalize_by_std, dr_grpo.aggregation) == (False, "constant")
    assert (dapo.clip_ratio_low, dapo.clip_ratio_high, dapo.aggregation) == (0.2, 0.28, "token_mean")


def test_the_papers_rule_draws_independently():
    assert PaperRule().draw == "bernoulli"
    assert NeymanRule().draw == "systematic"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (0.5,)),
        ({"probe_tokens": (8, 16), "keep_ratio": 0.25}, (0.5, 0.25)),
        ({"probe_tokens": (8, 16), "keep_ratio": 0.25, "probe_keep_ratios": (0.9, 0.25)}, (0.9, 0.25)),
        ({"keep_ratio": 1.0}, (1.0,)),
    ],
)
def test_the_share_still_running_falls_to_the_keep_ratio(fields, expected):
    assert UniformRule(**fields).cumulative_keep == pytest.approx(expected)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"keep_ratio": 0}, "greater than 0"),
        ({"keep_ratio": 1.01}, "less than or equal to 1"),
        ({"min_survival": 0}, "greater than 0"),
        ({"min_survivors": -1}, "greater than or equal to 0"),
        ({"warmup_steps": -1}, "greater than or equal to 0"),
        ({"barrier_timeout": 0}, "greater than 0"),
        ({"probe_tokens": ()}, "give one or more ascending lengths of at least 1"),
        ({"probe_tokens": (0,)}, "give one or more ascending lengths of at least 1"),
        ({"probe_tokens": (8, 8)}, "give one or more ascending lengths of at least 1"),
        ({"probe_tokens": (16, 8)}, "give one or more ascending lengths of at least 1"),
        ({"probe_keep_ratios": (0.5, 0.5)}, "give one per probe, the last equal to keep_ratio 0.5"),
        ({"probe_keep_ratios": (0.4,)}, "give one per probe, the last equal to keep_ratio 0.5"),
        ({"probe_tokens": (8, 16), "probe_keep_ratios": (0.4, 0.5)}, "let them fall, each in"),
        ({"probe_tokens": (8, 16), "probe_keep_ratios": (1.1, 0.5)}, "let them fall, each in"),
        ({"probe_tokens": (8, 16, 24), "probe_keep_ratios": (0.9, 0.0, 0.5)}, "let them fall, each in"),
        ({"draw": "coin"}, "systematic"),
    ],
)
def test_what_all_rules_refuse(fields, expected):
    with pytest.raises(ValidationError, match=expected):
        UniformRule(**fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"generated_price": 0, "trained_price": 0},
            "trained_price = 0: all prices are 0, so nothing can pay; set one",
        ),
        ({"trained_price": -1}, "greater than or equal to 0"),
        ({"keep_ratio": 0.05}, "outside"),
        ({"probe_tokens": (8, 16), "probe_keep_ratios": (0.5, 0.2)}, "auto chooses probe and share; leave it out"),
    ],
)
def test_what_auto_refuses(fields, expected):
    with pytest.raises(ValidationError, match=expected):
        AutoRule(**fields)


@pytest.mark.parametrize("features", [(), ("logprobs", "logprobs"), ("hidden",)])
def test_a_head_reads_each_feature_once_and_at_least_one(features):
    with pytest.raises(ValidationError):
        QualityConfig(features=features)


@pytest.mark.parametrize("field", ["clip_ratio_low", "clip_ratio_high", "kl_coef", "importance_cap"])
def test_algorithms_refuse_negative_numbers(field):
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        GrpoConfig(**{field: -0.1})


def test_every_field_explains_itself():
    for model in (*RULES, GrpoConfig, DrGrpoConfig, DapoConfig, QualityConfig):
        silent = [name for name, info in model.model_fields.items() if not info.description]
        assert set(silent) <= {"rule", "name"}, model
