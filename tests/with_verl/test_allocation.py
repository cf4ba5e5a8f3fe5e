"""Allocation rules in unmodified ``python -m verl.trainer.main_ppo``: which prompts, how often, which rows train."""

from collections import defaultdict

from arrol.integrations.memory import read_head
from verl_host import PROMPTS, SIZE, STEPS

POOL = 3 * PROMPTS


def groups_of(run, step):
    """uid -> rows of the step; none of them may be padding."""
    groups = defaultdict(list)
    for row in run.rows("rollouts", step):
        groups[row["uid"].split("_")[0]].append(row)
    assert not [uid for uid in groups if uid.startswith("pad")]
    return list(groups.values())


def test_a_step_asks_as_many_prompts_as_without_candidates(chosen):
    for step in range(1, STEPS + 1):
        groups = groups_of(chosen, step)
        assert [len(rows) for rows in groups] == [SIZE] * PROMPTS
    for row in chosen.metrics:
        assert row["arrol/allocation/prompts_drawn"] == POOL
        assert row["arrol/allocation/rollouts_asked"] == PROMPTS * SIZE
        assert row["arrol/rollout/survivors_frac"] == 1.0
        assert row["arrol/tokens/wasted"] == 0.0


def test_what_was_learnt_of_prompts_lies_beside_the_checkpoint(chosen):
    state = read_head(chosen.folder / "checkpoints" / f"global_step_{STEPS}")
    asked = {rows[0]["input"] for step in range(1, STEPS + 1) for rows in groups_of(chosen, step)}
    assert len(state["memory"]["history"]["counts"]) == len(asked)
    totals = [total for _, total in state["memory"]["history"]["counts"].values()]
    assert sum(totals) >= PROMPTS * SIZE


def test_validation_is_whole(chosen, alone):
    assert chosen.validation(STEPS).total() == alone.validation(STEPS).total()


def test_the_most_varied_rows_of_each_group_train(halved, alone):
    assert halved.rollouts(1) <= alone.rollouts(1), "they are rollouts of verl's own run"
    before = defaultdict(set)
    for rows in groups_of(alone, 1):
        before[rows[0]["input"]] |= {row["score"] for row in rows}
    groups = groups_of(halved, 1)
    assert len(groups) == PROMPTS
    for rows in groups:
        assert len(rows) == 2
        assert {row["score"] for row in rows} == before[rows[0]["input"]]
    (row,) = halved.metrics
    assert row["arrol/allocation/dropped/surplus"] == PROMPTS * SIZE // 2
    assert row["arrol/rollout/survivors_frac"] == 1.0


def test_sizes_follow_the_history_and_add_up_to_the_batch(sized):
    assert [len(rows) for rows in groups_of(sized, 1)] == [SIZE] * PROMPTS
    sizes = [len(rows) for rows in groups_of(sized, 2)]
    assert sum(sizes) == PROMPTS * SIZE
    assert max(sizes) > SIZE > min(sizes) >= 2
