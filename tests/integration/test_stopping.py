"""SIGTERM and Ctrl-C in real processes: what is being sampled ends at once, nothing is lost, a resumed run is the whole
one, bit for bit.

``tiny.finish`` waits two minutes for the end; the generations that are interrupted here would last longer.
"""

import json
import re
import signal

import pytest

from arrol.records.store import read_run
from integration import tiny
from integration.sameness import assert_same_run

ADVANCE = "arrol.engines.embedded.batch", "Batch.advance"
TERM, INT = signal.SIGTERM, signal.SIGINT
SIGNALS = pytest.mark.parametrize("number", [TERM, INT], ids=["SIGTERM", "SIGINT"])
ENDLESS = ["--training.group_size", "20000", "--engine.max_rows", "1"]
"""60,000 rollouts one after the other."""


MOMENTS = {
    "in the first evaluation": (("arrol.cli.train", "sample_prompts", 1), TERM, 0),
    "while the first step is sampled": ((*ADVANCE, 12), INT, 0),
    "while a later step is sampled": ((*ADVANCE, 60), TERM, None),
    "when a step is about to be sampled": (("arrol.algorithms.allocation.allocator", "Allocator.begin", 4), INT, 3),
    "when all are verified": (("arrol.algorithms.allocation.verdicts", "VerdictQueue.observe", 4), TERM, 3),
    "before an update": (("arrol.training.learner", "Learner.update", 3), INT, 3),
    "in an evaluation": (("arrol.cli.train", "sample_prompts", 3), TERM, 4),
    "in the last evaluation": (("arrol.cli.train", "sample_prompts", 5), INT, 8),
    "in the last update": (("arrol.training.learner", "Learner.update", 8), TERM, 8),
}
"""Moment -> the call at which the signal comes, the signal, and the step that is saved; None: some step."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_is_stopped_and_resumed_equals_the_whole_one(config, tmp_path, whole, moment):
    at, number, step = MOMENTS[moment]
    log, folder = tmp_path / "log", tmp_path / "runs" / "tiny"
    assert tiny.finish(["train", config], log, at, number) == 130, log.read_text()
    end = read_run(folder).end
    assert end.outcome == "stopped"
    assert step is None or end.step == step
    assert tiny.finish(["train", config, "--resume"], log) == 0, log.read_text()
    assert_same_run(folder, whole)


def test_stopped_in_every_step_and_evaluation_it_still_equals_the_whole_one(config, tmp_path, whole):
    log, argv, count = tmp_path / "log", ["train", config], 0
    while (code := tiny.finish(argv, log, (*ADVANCE, 25), TERM)) != 0:
        assert code == 130, log.read_text()
        argv, count = ["train", config, "--resume"], count + 1
        assert count < 40
    assert count > 4
    assert_same_run(tmp_path / "runs" / "tiny", whole)


@pytest.mark.parametrize(
    "second",
    [("arrol.training.trainer", "save_checkpoint", 1), ("arrol.training.checkpoint", "flush", 1)],
    ids=["before the checkpoint", "in the checkpoint"],
)
def test_a_second_sigterm_costs_nothing(config, tmp_path, whole, second):
    log, folder = tmp_path / "log", tmp_path / "runs" / "tiny"
    first = ("arrol.algorithms.allocation.verdicts", "VerdictQueue.observe", 2)
    assert tiny.finish(["train", config, "--training.checkpoint_every", "0"], log, [first, second], TERM) == 130
    assert read_run(folder).end.step == 1
    assert tiny.finish(["train", config, "--resume"], log) == 0, log.read_text()
    assert_same_run(folder, whole)


@SIGNALS
def test_a_long_generation_ends_at_once(config, tmp_path, number):
    log = tmp_path / "log"
    assert tiny.finish(["train", config, *ENDLESS], log, (*ADVANCE, 500), number) == 130
    assert "stopped at step 0" in log.read_text()


@SIGNALS
def test_drawing_many_prompts_ends_at_once(tmp_path, number):
    """A million would take minutes."""
    log, model = tmp_path / "log", tiny.save_model(tmp_path / "m", alphabet="0123456789+-*=,:;#")
    argv = ["eval", model, "--task", "arithmetic", "--evaluation.num_prompts", "1000000", "--device", "cpu"]
    argv += ["--out", tmp_path / "samples.jsonl"]
    assert tiny.finish(argv, log, ("arrol.tasks.arithmetic", "ArithmeticTask.draw", 3000), number) == 130
    assert log.read_text().splitlines()[-1] == "arrol: interrupted; what was saved before is intact, call it again"
    assert not (tmp_path / "samples.jsonl").exists()


@SIGNALS
def test_a_long_evaluation_ends_at_once_and_no_samples_are_written(config, tmp_path, number):
    log = tmp_path / "log"
    argv = ["eval", config, "--evaluation.samples_per_prompt", "20000", "--engine.max_rows", "1"]
    assert tiny.finish(argv, log, (*ADVANCE, 50), number) == 130
    assert log.read_text().splitlines()[-1] == ("arrol: interrupted; what was saved before is intact, call it again")
    assert not (tmp_path / "runs").exists()


def test_a_comparison_ends_at_once_and_goes_on(config, tmp_path):
    run = config.read_text().replace('name = "tiny"\n', "").replace("steps = 8", "steps = 3")
    text = re.sub(r"^\[(\w+)\]", r"[run.\1]", f"[run]\n{run}".replace("[run]\n\n", "[run]\n"), flags=re.MULTILINE)
    text = text.replace("[run.run]", "[run]")
    arms = '[[arms]]\nname = "a"\n[[arms]]\nname = "b"\nchange.pruning.rule = "uniform"\n'
    (tmp_path / "compare.toml").write_text(f'name = "both"\n{text}\n{arms}')
    argv, log = ["compare", tmp_path / "compare.toml"], tmp_path / "log"
    straight = ["--run.out_dir", tmp_path / "straight"]
    assert tiny.finish([*argv, *straight], log) == 0, log.read_text()
    in_arm_b = ("arrol.algorithms.allocation.allocator", "Allocator.begin", 5)
    assert tiny.finish(argv, log, in_arm_b, INT) == 130, log.read_text()
    assert log.read_text().splitlines()[-1] == "stopped at step 1 of b-seed0; go on with --resume"
    assert tiny.finish([*argv, "--resume"], log) == 0, log.read_text()
    for arm in ("a-seed0", "b-seed0"):
        assert_same_run(tmp_path / "runs" / "both" / arm, tmp_path / "straight" / "both" / arm)


def test_a_warm_start_ends_in_its_evaluation_and_goes_on(tmp_path):
    (tmp_path / "sft.toml").write_text(
        f'name = "warm"\nout_dir = {json.dumps(str(tmp_path))}\ndevice = "cpu"\nsteps = 2\nbatch_size = 2\n'
        "eval_prompts = 3\nmax_completion_tokens = 8\n"
        "shape = {hidden_size = 8, intermediate_size = 8, num_layers = 1, num_heads = 1, num_kv_heads = 1}\n"
        '[task]\nname = "countdown"\n'
    )
    argv, log = ["sft", tmp_path / "sft.toml"], tmp_path / "log"
    assert tiny.finish(argv, log, (*ADVANCE, 3), INT) == 130
    assert "is whole and not evaluated yet; go on with --resume" in log.read_text()
    assert tiny.finish([*argv, "--resume"], log, (*ADVANCE, 3), TERM) == 130
    assert read_run(tmp_path / "warm").end.outcome == "stopped"
    assert tiny.finish([*argv, "--resume"], log) == 0, log.read_text()
    assert read_run(tmp_path / "warm").end.outcome == "finished"


def test_a_pool_ends_at_once_and_goes_on_with_the_blocks_it_has(config, tmp_path):
    log, pool = tmp_path / "log", tmp_path / "pool.safetensors"
    argv = ["lab", config, "--prompts", "16", "--rollouts", "4", "--sketch-size", "0", "--out", pool]
    assert tiny.finish([*argv[:-1], tmp_path / "straight.safetensors"], log) == 0, log.read_text()
    assert tiny.finish(argv, log, ("arrol.lab.collect", "Collector.block", 2), TERM) == 130
    assert [path.name for path in (tmp_path / "pool.blocks").iterdir()] == ["000000.safetensors"]
    assert tiny.finish(argv, log) == 0, log.read_text()
    assert same_pool(pool, tmp_path / "straight.safetensors")


def same_pool(one, other):
    from safetensors.numpy import load_file

    mine, theirs = load_file(one), load_file(other)
    return mine.keys() == theirs.keys() and all(mine[key].tobytes() == theirs[key].tobytes() for key in mine)


@SIGNALS
def test_the_workers_that_judge_designs_end_with_their_command(config, tmp_path, number):
    """Forty designs of a million visits each."""
    log, pool = tmp_path / "log", tmp_path / "pool.safetensors"
    argv = ["lab", config, "--prompts", "4", "--rollouts", "24", "--sketch-size", "8", "--out", pool, "--visits", "1"]
    assert tiny.finish(argv, log) == 0, log.read_text()
    argv = ["lab", pool, "--workers", "2", "--visits", "1000000"]
    assert tiny.finish(argv, log, ("concurrent.futures._base", "Future.result", 1), number) == 130
    assert log.read_text().splitlines()[-1] == "arrol: interrupted; what was saved before is intact, call it again"
