"""Allocation rules in unmodified ``python -m verl.trainer.main_ppo``: which prompts, and which rows train."""

from collections import defaultdict

import pytest

from arrol.integrations.memory import read_head
from verl_host import PROMPTS, SIZE, STEPS


def groups_of(run, step):
    """uid -> rows of the step; none of them may be padding."""
    groups = defaultdict(list)
    for row in run.rows("rollouts", step):
        groups[row["uid"].split("_")[0]].append(row)
    assert not [uid for uid in groups if uid.startswith("pad")]
    return list(groups.values())


def test_greso_with_pruning_asks_as_many_prompts_as_without_candidates(pruned):
    for step in range(1, STEPS + 1):
        assert [len(rows) for rows in groups_of(pruned, step)] == [SIZE // 2] * PROMPTS
    for row in pruned.metrics:
        assert row["arrol/allocation/prompts_drawn"] == 2 * PROMPTS
        assert row["arrol/allocation/rollouts_asked"] == PROMPTS * SIZE


def test_what_was_learnt_of_prompts_lies_beside_the_checkpoint(pruned):
    state = read_head(pruned.folder / "checkpoints" / f"global_step_{STEPS}")
    asked = {rows[0]["input"] for step in range(1, STEPS + 1) for rows in groups_of(pruned, step)}
    assert len(state["memory"]["history"]["counts"]) == len(asked)


def test_pods_with_pruning_trains_a_part_of_the_survivors_beside_a_reference_model(halved, alone):
    assert halved.rollouts(1) <= alone.rollouts(1), "they are rollouts of verl's own run"
    assert [len(rows) for rows in groups_of(halved, 1)] == [2] * PROMPTS
    (row,) = halved.metrics
    assert row["arrol/rollout/survivors_frac"] == 0.75
    assert row["arrol/allocation/dropped/surplus"] == PROMPTS
    assert row["arrol/batch/rows"] == 2 * PROMPTS
    assert row["arrol/batch/mini_batches"] == 1
    assert row["actor/kl_loss"] == pytest.approx(0, abs=1e-3), "the policy before its first update, in bfloat16"
