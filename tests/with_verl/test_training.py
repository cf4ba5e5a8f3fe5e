"""Unmodified ``python -m verl.trainer.main_ppo`` with one override of ours and the lines that the helper derives."""

import math

import numpy as np
import pytest

from arrol.integrations.memory import read_head
from verl_host import PROMPTS, SIZE, STEPS

SURVIVORS = SIZE // 2
NOISE = {"rel": 1e-4, "abs": 1e-5}
"""verl names prompts at random and trains in the order of their names: its own sums differ in their last digits."""


def test_with_pruning_off_nothing_differs_from_verl_alone(off, smollm2_alone):
    for step in range(1, STEPS + 1):
        assert off.rollouts(step) == smollm2_alone.rollouts(step), "tokens and rewards, exactly"
    assert off.validation(STEPS) == smollm2_alone.validation(STEPS), "greedy decoding after the last update"
    assert max(row["actor/grad_norm"] for row in off.metrics) > 0
    for mine, theirs in zip(off.metrics, smollm2_alone.metrics, strict=True):
        assert mine.keys() == theirs.keys()
        for key in ("actor/grad_norm", "actor/pg_loss", "critic/score/mean", "response_length/mean", "actor/entropy"):
            assert mine[key] == pytest.approx(theirs[key], **NOISE), key


def test_survivors_are_rollouts_of_the_run_without_pruning(pruned, alone):
    assert pruned.rollouts(1) <= alone.rollouts(1)
    assert pruned.rollouts(1).total() == PROMPTS * SURVIVORS


def test_every_prompt_keeps_the_same_number_and_no_row_is_padding(pruned):
    for step in range(1, STEPS + 1):
        rows = pruned.rows("rollouts", step)
        assert len(rows) == PROMPTS * SURVIVORS
        assert not [row["uid"] for row in rows if row["uid"].startswith("pad")]
        groups = [row["uid"].split("_")[0] for row in rows]
        assert {groups.count(group) for group in groups} == {SURVIVORS}


def test_validation_is_never_pruned(pruned, alone):
    assert pruned.validation(STEPS).total() == alone.validation(STEPS).total() == 2 * 8


def test_metrics_stand_beside_those_of_verl(pruned):
    for step, row in enumerate(pruned.metrics, 1):
        assert row["arrol/pruning/kept_frac"] == 0.5
        assert row["arrol/rollout/survivors_frac"] == 0.5
        assert row["arrol/rollout/finish/pruned"] == PROMPTS * SURVIVORS
        assert row["arrol/tokens/wasted"] == 12 * PROMPTS * SURVIVORS
        assert row["arrol/quality/version"] == step
        assert row["arrol/rollout/success_frac_after"] == pytest.approx(row["critic/score/mean"])
    longer = sum(row["arrol/tokens/generated"] for row in pruned.metrics)
    assert pruned.metrics[-1]["arrol/total/tokens/generated"] == longer


def test_the_head_lies_beside_the_checkpoint_and_is_found_again(pruned, again):
    folder = pruned.folder / "checkpoints" / f"global_step_{STEPS}"
    assert not list((folder / "actor").rglob("arrol_head*")), "the policy's folder stays plain"
    assert not (folder.parent / "arrol_ahead").exists(), "the head came into the checkpoint"
    before = read_head(folder)
    assert before["memory"]["step"] == STEPS
    (row,) = again.metrics
    assert row["step"] == STEPS + 1
    assert row["arrol/quality/version"] == STEPS + 1
    before_tokens = before["memory"]["ledger"]["tokens/generated"]
    assert row["arrol/total/tokens/generated"] == before_tokens + row["arrol/tokens/generated"]
    after = read_head(again.folder / "checkpoints" / f"global_step_{STEPS + 1}")
    recent, more = (state["controller"]["recent"]["0"] for state in (before, after))
    np.testing.assert_array_equal(more[: len(recent)], recent)
    assert len(more) == len(recent) + PROMPTS * SIZE


def test_smollm2_trains_pruned_steps_and_sampler_and_learner_agree(smollm2):
    """verl's own comparison of rollout and actor probabilities, in float32."""
    assert [row["step"] for row in smollm2.metrics] == [1, 2, 3, 4, 5, 6]
    found = [row["arrol/pruning/candidates"] for row in smollm2.metrics]
    assert found == [0, *[8] * 5]  # the first step chooses the probe
    for row, kept in zip(smollm2.metrics, (1.0, *[0.5] * 5), strict=True):
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, (int, float)))
        assert row["arrol/pruning/kept_frac"] == kept
        assert row["arrol/batch/rows"] == 8 * kept
        assert row["arrol/batch/synthetic_rows"] == 0
        assert row["training/rollout_probs_diff_max"] < 1e-3
        assert row["training/rollout_actor_probs_pearson_corr"] > 0.999
    assert max(row["actor/grad_norm"] for row in smollm2.metrics) > 0
