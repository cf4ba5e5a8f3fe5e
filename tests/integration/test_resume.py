"""kill -9 at any moment, resume, and the run is the one that was never interrupted, bit for bit."""

import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
import safetensors.torch

from arrol.cli.main import main
from arrol.records.manifest import read_manifest, write_manifest
from arrol.records.state import write_state
from arrol.records.store import read_run
from arrol.training.checkpoint import load_state, newest_checkpoint
from integration import tiny
from integration.sameness import assert_same_run, plain, weights


def test_the_run_prunes_learns_and_changes_its_weights(whole):
    run = read_run(whole)
    assert [step.step for step in run.steps] == list(range(1, 9))
    assert sum(step.metrics["rollout/finish/pruned"] for step in run.steps) > 10
    assert sum(step.metrics["tokens/trained"] > 0 for step in run.steps) >= 6
    assert {row.reason for row in run.rollouts} >= {"draw", "warmup", ""}
    states = load_state(newest_checkpoint(whole / "checkpoints"))
    assert set(states["estimator"]["probes"]) == {"0", "1"}
    assert len(states["allocator"]["history"]["counts"]) == 7


KILLS = [
    ("in the first evaluation", ("arrol.cli.train", "sample_prompts", 1)),
    ("before the first checkpoint", ("arrol.training.trainer", "Trainer._write_rollouts", 2)),
    ("while the first checkpoint is written", ("arrol.training.checkpoint", "write_state", 1)),
    ("before a checkpoint gets its name", ("arrol.training.checkpoint", "flush", 2)),
    ("before an old checkpoint is forgotten", ("arrol.training.trainer", "forget_checkpoints", 1)),
    ("while an old checkpoint is deleted", ("arrol.training.checkpoint", "_delete", 1)),
    ("before an update", ("arrol.training.learner", "Learner.update", 1)),
    ("before the row of a step", ("arrol.training.trainer", "Trainer._record", 2)),
]


def test_a_run_killed_again_and_again_equals_the_whole_one(config, tmp_path, whole):
    for number, (moment, kill_at) in enumerate(KILLS):
        resume = ["--resume"] if number else []
        assert tiny.finish(["train", config, *resume], tmp_path / "log", kill_at) == -signal.SIGKILL, moment
    assert tiny.finish(["train", config, "--resume"], tmp_path / "log") == 0, (tmp_path / "log").read_text()
    folder = tmp_path / "runs" / "tiny"
    assert_same_run(folder, whole)
    run = read_run(folder).run
    assert run.segment == len(KILLS)
    assert run.resume_step > 0
    assert not list((folder / "checkpoints").glob(".*"))


def test_a_command_killed_at_a_random_moment_equals_the_whole_one(config, tmp_path, whole):
    folder, rng = tmp_path / "runs" / "tiny", random.Random(os.getpid())
    wait_s, rows = rng.random() * 0.1, rng.randrange(1, 9)
    command = [sys.executable, "-m", "arrol.cli.main", "train", str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and count_rows(folder) < rows:
            time.sleep(0.002)
        time.sleep(wait_s)
        process.kill()
    assert tiny.finish(["train", config, "--resume"], tmp_path / "log") == 0, (rows, wait_s)
    assert_same_run(folder, whole)


@pytest.mark.parametrize("rule", ["aero", "greso", "pilot_commit"])
def test_what_an_allocation_rule_remembers_survives_a_kill(config, tmp_path, rule):
    """In the middle of a step and between two; requests, streaks, evictions and beliefs go on."""
    command = ["train", config, "--allocation", rule, "--pruning.min_survivors", "0", "--training.steps", "6"]
    assert tiny.finish([*command, "--out_dir", tmp_path / "straight"], tmp_path / "log") == 0
    kill_at = ("arrol.training.learner", "Learner.update", 4)
    assert tiny.finish(command, tmp_path / "log", kill_at) == -signal.SIGKILL
    assert tiny.finish([*command, "--resume"], tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert_same_run(tmp_path / "runs" / "tiny", tmp_path / "straight" / "tiny")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_ends_in_order(config, tmp_path, whole, number):
    folder = tmp_path / "runs" / "tiny"
    during = ("arrol.training.learner", "Learner.update", 3)
    assert tiny.finish(["train", config], tmp_path / "log", during, number) == 130
    stopped = read_run(folder)
    assert (stopped.end.outcome, stopped.end.step, stopped.steps[-1].step) == ("stopped", 3, 3)
    assert newest_checkpoint(folder / "checkpoints").name == "step-000003"
    assert tiny.finish(["train", config, "--resume"], tmp_path / "log") == 0
    assert_same_run(folder, whole)


def test_a_first_row_that_was_torn_is_a_fresh_start(config, tmp_path, whole):
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    (folder / "records.jsonl").write_text('{"kind": "run", "run_')
    assert tiny.finish(["train", config, "--resume"], tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert_same_run(folder, whole)


def test_a_finished_run_goes_on_when_more_steps_are_asked_for(config, tmp_path, whole):
    flags = ["--optimizer.schedule", "constant"]
    short = tmp_path / "short"
    assert main(["train", str(config), *flags, "--training.steps", "5", "--out_dir", str(short)]) == 0
    assert main(["train", str(config), *flags, "--resume", "--out_dir", str(short)]) == 0
    assert main(["train", str(config), *flags]) == 0
    # The evaluation and checkpoint at step 5 are extra, the rest is the same.
    longer, straight = read_run(short / "tiny"), read_run(tmp_path / "runs" / "tiny")
    assert [plain(step) for step in longer.steps if step.step != 5] == [
        plain(step) for step in straight.steps if step.step != 5
    ]
    assert weights(short / "tiny") == weights(tmp_path / "runs" / "tiny")


def test_another_config_is_refused_and_nothing_changes(config, tmp_path, capsys):
    assert main(["train", str(config), "--training.steps", "2"]) == 0
    before = snapshot(tmp_path / "runs")
    capsys.readouterr()
    assert main(["train", str(config), "--resume", "--optimizer.learning_rate", "0.05"]) == 2
    err = capsys.readouterr().err
    assert err == (
        "arrol: optimizer.learning_rate = 0.05: the run in that folder was made with 0.01; "
        "resume with that value or give the run another name\n"
    )
    assert main(["train", str(config)]) == 2
    assert "holds a run already; go on with --resume" in capsys.readouterr().err
    assert snapshot(tmp_path / "runs") == before


def test_a_checkpoint_of_another_config_or_without_records_is_refused(config, tmp_path, capsys):
    assert main(["train", str(config), "--training.steps", "2"]) == 0
    checkpoint = newest_checkpoint(tmp_path / "runs" / "tiny" / "checkpoints")
    state, manifest = load_state(checkpoint), read_manifest(checkpoint)
    state["config"]["seed"] = 1
    write_state(checkpoint, "state", state)
    write_manifest(checkpoint, manifest.run)
    before = snapshot(tmp_path / "runs")
    capsys.readouterr()
    assert main(["train", str(config), "--resume"]) == 2
    assert capsys.readouterr().err.startswith("arrol: seed = 0: the checkpoint was made with 1; resume with that value")
    assert snapshot(tmp_path / "runs") == before
    (tmp_path / "runs" / "tiny" / "records.jsonl").write_text("")
    assert main(["train", str(config), "--resume"]) == 2
    assert "step-000002: records.jsonl has 0 of its " in capsys.readouterr().err
    write_manifest(checkpoint, {})
    assert main(["train", str(config), "--resume"]) == 2
    assert "holds checkpoints without their records; choose another --name" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_the_older_checkpoint_goes_on(config, tmp_path, whole, capsys, monkeypatch):
    folder, original, calls = tmp_path / "runs" / "tiny", safetensors.torch.save_file, []

    def fill(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return original(*args, **kwargs)

    monkeypatch.setattr(safetensors.torch, "save_file", fill)
    assert main(["train", str(config)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("arrol: out_dir = ")
    assert "the disk is full; free some space and go on with --resume" in err
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000002"]
    assert read_run(folder).end.outcome == "failed"
    monkeypatch.setattr(safetensors.torch, "save_file", original)
    assert main(["train", str(config), "--resume"]) == 0
    assert_same_run(folder, whole)


@pytest.mark.parametrize("limit", [3000, 12000])
def test_a_real_limit_on_file_sizes_says_the_same(config, tmp_path, limit):
    """3000 bytes stop the records, 12000 the weights: each writer ends in one line and exit code 2."""
    process = subprocess.run(
        [sys.executable, "-m", "arrol.cli.main", "train", str(config), "--evaluation.every", "0"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2, process.stderr
    assert process.stderr.count("\n") == 1, process.stderr
    assert not newest_checkpoint(tmp_path / "runs" / "tiny" / "checkpoints")


def count_rows(folder):
    records = folder / "records.jsonl"
    return records.read_bytes().count(b"\n") if records.exists() else 0


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
