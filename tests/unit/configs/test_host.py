"""Flat options of hosts: strict, with the rule's own defaults."""

import doctest

import pytest

from arrol.configs import host
from arrol.configs.host import HostConfig, parse_host
from arrol.configs.method import NeymanRule, PaperRule, QualityConfig
from arrol.errors import ConfigError


def test_example():
    assert doctest.testmod(host).failed == 0


def test_nothing_said_is_our_best_rule():
    assert parse_host({}) == HostConfig(pruning=NeymanRule())


def test_mc_grpo_takes_survivors_as_they_are():
    assert parse_host({"algorithm": "mc_grpo"}).correction == "plain"


def test_a_rule_brings_its_own_defaults():
    assert parse_host({"rule": "paper"}).pruning == PaperRule()


def test_nested_quality_and_one_probe_as_a_number():
    config = parse_host({"probe_tokens": 64, "quality": {"hidden_size": 32}, "correction": "plain"})
    assert config.pruning.probe_tokens == (64,)
    assert config.quality == QualityConfig(hidden_size=32)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"keep_ration": 0.5}, ["keep_ration = 0.5", "'keep_ratio'"]),
        ({"keep_ratio": 2}, ["keep_ratio = 2", "must be at most 1"]),
        ({"rule": "neymann"}, ["rule = 'neymann'", "'neyman'"]),
        (
            {"rule": "uniform", "scope": "group"},
            ["scope = 'group': unknown key; only rule = 'balanced' or 'neyman' has it"],
        ),
        ({"quality": {"hidden": 3}}, ["quality.hidden = 3", "'quality.hidden_size'"]),
        ({"correction": "best"}, ["correction = 'best'"]),
        ({"estimator": "ipw"}, ["estimator = 'ipw'", "unknown key", "'correction'"]),
        ({"rule": "extremes", "draw": "bernoulli", "correction": "plain"}, ["draw = 'bernoulli': extremes ranks"]),
        ({"rule": "auto", "correction": "plain"}, ["correction = 'plain': rule = 'auto' estimates the noise of 'ipw'"]),
        ({"rule": "confidence"}, ["correction = 'ipw': rule 'confidence' stops with certainty"]),
        ({"rule": "uniform", "keep_ratio": 0.05}, ["keep_ratio = 0.05: outside [min_survival, max_survival]"]),
        (
            {"algorithm": "mc_grpo", "correction": "ipw"},
            ["correction = 'ipw': mc_grpo's median has no weighted form; set 'plain'"],
        ),
    ],
)
def test_one_line_for_a_mistake(values, words):
    with pytest.raises(ConfigError) as error:
        parse_host(values)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), error.value


def test_auto_takes_the_correction_that_it_describes():
    assert parse_host({"rule": "auto", "probe_tokens": 8}).correction == "ipw"
