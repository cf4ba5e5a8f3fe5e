"""What steps that teach nothing say, on made-up metrics."""

import math

import pytest

from arrol.records.diagnosis import ADVICE, FOLLOWS, IN_A_ROW, KINDS, FindingWatch, final_findings, findings

HEALTHY = {
    "tokens/trained": 900.0,
    "rollout/finish/stop": 30.0,
    "rollout/finish/length": 2.0,
    "rollout/answered_frac": 0.9,
    "rollout/reward_std": 0.4,
    "rollout/success_frac_before": 0.3,
    "rollout/success_frac_after": 0.35,
    "rollout/dead_group_frac": 0.5,
    "quality/head_loss": 0.6,
}
IDLE = {**HEALTHY, "tokens/trained": 0.0, "rollout/dead_group_frac": 1.0}
ONE_REWARD = {**IDLE, "rollout/reward_std": 0.0}
ALL_WRONG = {**ONE_REWARD, "rollout/success_frac_before": 0.0, "rollout/success_frac_after": 0.0}
UNREAD = {**ALL_WRONG, "rollout/answered_frac": 0.0}
CUT = {**UNREAD, "rollout/finish/stop": 0.0}


def kinds(steps):
    return [finding.kind for finding in findings(steps)]


def test_steps_that_teach_and_steps_of_another_host_say_nothing():
    assert findings([HEALTHY] * 9) == findings([{"loss/sft": 2.0}] * 9) == findings([]) == []
    assert final_findings([HEALTHY] * 9) == final_findings([{}] * 9) == final_findings([]) == []


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({**HEALTHY, "rollout/finish/stop": 0.0}, ["truncated"]),
        ({**HEALTHY, "rollout/finish/stop": 0.0, "rollout/finish/pruned": 5.0}, ["truncated"]),
        (IDLE, ["dead_groups"]),
        (ONE_REWARD, ["one_reward"]),
        ({**HEALTHY, "rollout/success_frac_before": 1 - 1e-12}, ["one_label"]),
        (ALL_WRONG, ["one_reward", "one_label"]),
        (UNREAD, ["no_answers", "one_label"]),
        (CUT, ["truncated", "no_answers", "one_label"]),
        ({**HEALTHY, "rollout/survivors_frac": 0.0}, ["no_rewards"]),
        ({**CUT, "rollout/survivors_frac": 0.0}, ["no_rewards", "truncated", "one_label"]),
        ({**HEALTHY, "rollout/success_frac_before": math.nan}, ["no_labels"]),
        ({**CUT, "rollout/success_frac_before": math.nan, "rollout/reward_std": math.nan}, ["truncated", "no_answers"]),
    ],
)
def test_each_kind_and_no_consequence_beside_its_cause(step, expected):
    assert kinds([step] * 3) == expected


@pytest.mark.parametrize("bad", [CUT, IDLE, ALL_WRONG])
def test_one_other_step_is_enough_to_say_nothing(bad):
    assert kinds([bad, HEALTHY, bad]) == []


def test_a_reward_that_differs_between_steps_varies():
    first, second = ({**ONE_REWARD, "reward/mean": value} for value in (0.25, 0.5))
    assert kinds([first, first]) == ["one_reward"]
    assert findings([first, first])[0].text.startswith("every rollout got the reward 0.25 in each of 2 steps: ")
    assert kinds([first, second]) == kinds([first, {**first, "rollout/reward_std": 0.1}]) == ["dead_groups"]


def test_labels_of_both_kinds_may_come_from_different_steps():
    right, wrong = ({**HEALTHY, "rollout/success_frac_before": share} for share in (1.0, 0.0))
    assert kinds([right, right]) == kinds([wrong, wrong]) == ["one_label"]
    assert kinds([right, wrong]) == []
    assert "saw right rollouts only" in findings([right])[0].text
    assert "saw wrong rollouts only in the only step" in findings([wrong])[0].text


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_names_causes_and_the_next_step(kind):
    examples = {"truncated": CUT, "no_answers": UNREAD, "one_reward": ALL_WRONG, "dead_groups": IDLE}
    examples |= {"no_rewards": {**IDLE, "rollout/survivors_frac": 0.0}}
    examples |= {"no_labels": {**HEALTHY, "rollout/success_frac_before": math.nan}}
    (text,) = [finding.text for finding in findings([examples.get(kind, ALL_WRONG)] * 4) if finding.kind == kind]
    assert "\n" not in text
    assert "in each of 4 steps: " in text
    assert "; " in text


def test_a_host_says_the_same_with_its_own_next_step():
    own = {kind: f"do {kind}" for kind in KINDS}
    (finding,) = findings([IDLE] * 4, own)
    assert finding.text.endswith(" in each of 4 steps: do dead_groups")
    assert [found.text[-14:] for found in final_findings([IDLE] * 4, own)][1:] == ["do dead_groups"]
    watch = FindingWatch(own)
    assert [watch.look(IDLE) for _ in range(IN_A_ROW)][-1][0].endswith(": do dead_groups")


def test_every_kind_has_advice_and_consequences_are_kinds():
    assert set(ADVICE) == set(KINDS)
    assert {kind for pair in FOLLOWS for kind in pair} <= set(KINDS)


def test_the_end_of_a_run_counts_the_steps_without_a_gradient():
    assert final_findings([IDLE] * 5)[0].text == ("nothing was learned: no rollout trained in any of 5 steps")
    found = final_findings([HEALTHY, ALL_WRONG, ALL_WRONG, ALL_WRONG])
    assert [finding.kind for finding in found] == ["nothing_learned", "one_reward", "one_label"]
    assert found[0].text == "little was learned: no rollout trained in 3 of 4 steps"
    assert final_findings([HEALTHY, HEALTHY, ALL_WRONG]) == []


def test_a_penalty_may_teach_where_all_groups_are_dead_and_a_reference_alone_does_not():
    penalty = {**IDLE, "tokens/trained": 50.0}
    assert [finding.kind for finding in final_findings([penalty])] == ["dead_groups"]
    assert final_findings([{**penalty, "loss/kl": 0.1}])[0].kind == "nothing_learned"


def test_during_training_each_kind_is_said_once_after_several_steps_in_a_row():
    watch = FindingWatch()
    said = [watch.look(step) for step in [IDLE] * (IN_A_ROW - 1) + [HEALTHY] + [IDLE] * IN_A_ROW + [CUT] * 2 * IN_A_ROW]
    spoken = {at: len(lines) for at, lines in enumerate(said) if lines}
    assert spoken == {2 * IN_A_ROW - 1: 1, 3 * IN_A_ROW - 1: 3}
