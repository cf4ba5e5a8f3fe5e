"""Every allocation rule from the command line: it trains, with pruning and without, and a restart changes nothing."""

import json
import signal

import numpy as np
import pytest

from arrol.cli.main import main
from arrol.configs.allocation import ALLOCATIONS
from arrol.records.store import read_run
from integration import tiny
from integration.test_resume import assert_same_run

SMALL = {
    "aero": ["--allocation.explore_size", "3", "--allocation.max_group", "9"],
    "reinforce_ada": ["--allocation.round_size", "2", "--allocation.keep_size", "4"],
    "pilot_commit": ["--allocation.pilot_size", "3", "--allocation.commit_size", "3"],
    "sara": ["--allocation.explore_size", "2", "--allocation.round_size", "2"],
    "pods": ["--allocation.train_size", "3"],
    "cppo": ["--allocation.train_size", "3"],
}
"""What defaults for groups of 16 become for groups of 6."""


def flags_of(rule):
    return ["--allocation", rule, *SMALL.get(rule, [])]


def train(config, *flags):
    assert main(["train", str(config), *flags]) == 0
    name = flags[flags.index("--name") + 1] if "--name" in flags else "tiny"
    return read_run(config.parent / "runs" / name)


def totals(run, key):
    return sum(step.metrics[key] for step in run.steps)


@pytest.mark.parametrize("rule", sorted(ALLOCATIONS))
@pytest.mark.parametrize("pruning", ["never", "neyman"])
def test_a_rule_trains_from_the_command_line(config, rule, pruning):
    run = train(config, *flags_of(rule), "--pruning", pruning, "--training.steps", "4")
    assert [step.step for step in run.steps] == [1, 2, 3, 4]
    assert run.run.config["allocation"]["rule"] == rule
    for step in run.steps:
        rows = [row for row in run.rollouts if row.step == step.step]
        assert len(rows) == step.metrics["allocation/rollouts_asked"]
        assert len({row.group for row in rows}) == step.metrics["allocation/prompts_drawn"]
        assert sum(row.completion_tokens for row in rows) == step.metrics["tokens/generated"]
        assert all((row.dropped == "") == row.keep or row.finish_reason == "pruned" for row in rows)
        assert step.metrics["tokens/trained"] <= sum(row.completion_tokens for row in rows if row.keep)
        assert step.metrics["compute/flops"] > 0
    if pruning == "neyman":
        assert totals(run, "rollout/finish/pruned") > 0


def test_rescues_are_never_pruned_and_prompts_without_success_get_more(config):
    run = train(config, *flags_of("aero"), "--training.steps", "6")
    later = [row for row in run.rollouts if row.index >= 3 and row.step > 1]
    rescued = [row for row in later if row.reason == "rescue"]
    assert rescued
    assert all(row.finish_reason != "pruned" and row.survival == 1.0 for row in rescued)
    sizes = {}
    for row in run.rollouts:
        sizes.setdefault((row.step, row.group), []).append(row)
    for rows in sizes.values():
        assert len(rows) <= 9
        explored = [row.reward for row in rows if row.index < 3 and row.reward is not None]
        if explored and not any(explored):
            assert len(rows) > 3 or sum(len(r) for key, r in sizes.items() if key[0] == rows[0].step) >= 18


def test_a_token_budget_holds_in_every_step(config):
    budget = 90  # the first wave at full length
    run = train(config, *flags_of("aero"), "--allocation.token_budget", str(budget), "--pruning", "never")
    spent = [step.metrics["tokens/generated"] for step in run.steps]
    assert max(spent) <= budget
    free = train(config, *flags_of("aero"), "--pruning", "never", "--name", "free")
    assert max(step.metrics["tokens/generated"] for step in free.steps) > budget


@pytest.mark.parametrize("rule", ["greso", "pilot_commit", "mopps", "aero"])
def test_a_run_killed_between_steps_equals_the_whole_one(config, tmp_path, rule):
    whole = [*flags_of(rule), "--out_dir", tmp_path / "whole"]
    assert tiny.finish(["train", config, *whole], tmp_path / "log") == 0, (tmp_path / "log").read_text()
    broken = [*flags_of(rule), "--out_dir", tmp_path / "broken"]
    kill_at = ("arrol.training.learner", "Learner.update", 5)
    assert tiny.finish(["train", config, *broken], tmp_path / "log", kill_at) == -signal.SIGKILL
    assert tiny.finish(["train", config, *broken, "--resume"], tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert_same_run(tmp_path / "broken" / "tiny", tmp_path / "whole" / "tiny")


def test_the_order_in_which_rows_come_free_changes_no_decision_of_a_single_wave(config):
    """Few rows or many: the same rollouts, the same training."""
    flags = [*flags_of("pods"), "--pruning", "never"]
    runs = [train(config, *flags, "--engine.max_rows", rows, "--name", f"r{rows}") for rows in ("3", "64")]
    for one, other in zip(*(run.steps for run in runs), strict=True):
        assert one.metrics["tokens/trained"] == other.metrics["tokens/trained"]
        np.testing.assert_allclose(one.metrics["loss/grad_norm"], other.metrics["loss/grad_norm"], rtol=1e-4)


def test_the_table_shows_what_allocation_is_about(config, capsys):
    assert main(["train", str(config), *flags_of("aero"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["flops"] > 0
    assert 3 <= row["rollouts_per_prompt"] <= 9
    assert 0 <= row["dead_group_frac"] <= 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--allocation", "earo"], "the nearest of"),
        (["--allocation", "aero", "--allocation.explore_size", "7"], "allocation.explore_size = 7"),
        (["--allocation", "pods", "--allocation.train_size", "9"], "allocation.train_size = 9"),
        (["--allocation", "aero", "--pruning", "oracle"], "allocation.rule = 'aero'"),
        (["--algorithm", "mc_grpo", "--algorithm.correction", "plain"], "training.group_size = 6"),
        (["--allocation", "dapo", "--allocation.token_budget", "10"], "allocation.token_budget = 10"),
    ],
)
def test_a_mistake_is_one_line(config, capsys, flags, words):
    assert main(["train", str(config), *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
