"""The probe follows the lengths; a threshold that does not divide the rewards is told once, after the warm-up."""

import json

import numpy as np
import pytest

from arrol.configs.host import parse_host
from arrol.integrations.warmup import ENOUGH, Warmup


def warmup_of(steps=2, **options):
    return Warmup(parse_host({"warmup_steps": steps, "probe_tokens": 4, **options}))


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


def test_few_rewards_do_not_judge_the_threshold():
    warmup = warmup_of(0)
    assert warmup.label_warning(np.zeros(ENOUGH - 1), 1, "judge") is None
    assert "of the 64 rewards" in warmup.label_warning(np.zeros(1), 2, "judge")


def test_a_rule_without_probes_has_no_head_to_warn_of():
    assert warmup_of(0, rule="never").label_warning(np.zeros(ENOUGH), 1, "judge") is None
