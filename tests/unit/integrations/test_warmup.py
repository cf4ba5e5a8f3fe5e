"""The probe follows the lengths; a threshold that does not divide the rewards is told once, after the warm-up."""

import json

import numpy as np
import pytest

from arrol.configs.host import parse_host
from arrol.integrations.warmup import ENOUGH, Warmup, with_probes, without_probes
from arrol.types import FinishReason

from .groups import group_of


def warmup_of(steps=2, **options):
    return Warmup(parse_host({"warmup_steps": steps, "probe_tokens": 4, **options}))


def groups(lengths):
    """One group, with a failed rollout that does not count."""
    count = len(lengths) + 1
    group = group_of([1] * count, [1.0] * count, [None] * count, lengths=[*lengths, 0])
    group.rollouts[-1].completion.finish_reason = FinishReason.ERROR
    return [group]


def reloaded(warmup, steps=2):
    other = warmup_of(steps)
    other.load(json.loads(json.dumps(warmup.save())))
    return other


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        (
            [0.0, 0.4, np.nan],
            "success_threshold = 0.5: none of the 80 rewards of 'judge' so far (0 to 0.4) is above it, so the head has "
            "learned nothing; set it between the rewards of wrong and of right answers, or use easier prompts",
        ),
        (
            [0.6, 2.0, np.nan],
            "success_threshold = 0.5: each of the 80 rewards of 'judge' so far (0.6 to 2) is above it, so the head has "
            "learned nothing; set it between the rewards of wrong and of right answers, or use harder prompts",
        ),
        ([0.5, 0.6, np.nan], None),
    ],
)
def test_labels_that_are_all_equal_are_told_once(rewards, words):
    warmup, batch = warmup_of(), np.repeat(rewards, ENOUGH // 4 + 4)
    assert warmup.label_warning(batch, 1, "judge") is None
    warmup = reloaded(warmup)
    assert warmup.label_warning(batch, 2, "judge") == words
    assert warmup.label_warning(batch, 3, "judge") is None
    assert reloaded(warmup).label_warning(batch, 3, "judge") is None


def test_the_probe_is_half_of_the_median_after_a_quarter_of_the_warmup():
    warmup = warmup_of(8)
    assert warmup.probe(0) is None
    warmup.add_lengths(groups([10, 20, 30]))
    assert warmup.probe(1) is None
    warmup = reloaded(warmup, 8)
    warmup.add_lengths(groups([40, 50, 60]))
    words = "probe_tokens = [17]: half of the median length of the first 6 completions (35 tokens), at most 512"
    assert str(warmup.probe(2)) == words


@pytest.mark.parametrize(
    ("steps", "lengths", "probe"),
    [(100, [8] * ENOUGH, 4), (0, [5000], 512), (0, [1, 1], 1), (0, [2, 2], 1)],
)
def test_64_completions_are_enough_and_the_probe_has_bounds(steps, lengths, probe):
    warmup = warmup_of(steps)
    warmup.add_lengths(groups(lengths))
    assert warmup.probe(1).tokens == probe


def test_only_a_rule_with_probes_is_left_without():
    config = parse_host({"rule": "uniform", "keep_ratio": 0.25, "probe_tokens": 9})
    measuring = without_probes(config)
    assert (measuring.pruning.probe_tokens, with_probes(measuring, [9])) == ((), config)
    never = parse_host({"rule": "never"})
    assert without_probes(never) == never


def test_few_rewards_do_not_judge_the_threshold():
    warmup = warmup_of(0)
    assert warmup.label_warning(np.zeros(ENOUGH - 1), 1, "judge") is None
    assert "of the 64 rewards" in warmup.label_warning(np.zeros(1), 2, "judge")


def test_a_rule_without_probes_has_no_head_to_warn_of():
    assert warmup_of(0, rule="never").label_warning(np.zeros(ENOUGH), 1, "judge") is None
