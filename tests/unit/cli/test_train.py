"""What may be gone on with, what is refused, and what a finished run prints. Real runs: tests/integration."""

import json
import os
import re
import shutil
from dataclasses import replace

import pytest

from arrol.cli import train
from arrol.cli.main import main
from arrol.cli.train import previous_record, run_folder
from arrol.configs.run import load_run
from arrol.errors import CheckpointError, DataError
from arrol.records.lock import Claim
from arrol.records.store import portable, read_run
from arrol.reports import page
from arrol.training.policy import character_tokenizer


@pytest.fixture
def tiny_file(tmp_path, make_model):
    """A config of two short steps on a random model."""
    tokenizer = character_tokenizer("0123456789+-*=,:;#")
    make_model(vocab_size=len(tokenizer), eos_token_id=1, hidden_size=16, head_dim=4).save_pretrained(
        tmp_path / "model"
    )
    tokenizer.save_pretrained(tmp_path / "model")
    path = tmp_path / "tiny.toml"
    path.write_text(
        f'name = "tiny"\nmodel = {json.dumps(str(tmp_path / "model"))}\n'
        f'out_dir = {json.dumps(str(tmp_path / "runs"))}\ndevice = "cpu"\n'
        "sampling.max_completion_tokens = 4\n"
        "training = {steps = 2, prompts_per_step = 1, group_size = 2, checkpoint_every = 1}\n"
        "evaluation = {every = 0, num_prompts = 2}\n"
        '[task]\nname = "arithmetic"\n'
    )
    return path


def test_json_is_all_that_stands_on_stdout(tiny_file, tmp_path, capsys):
    assert main(["train", str(tiny_file), "--json"]) == 0
    out, err = capsys.readouterr()
    (row,) = json.loads(out)
    assert (row["arm"], row["steps"], row["seeds"]) == ("tiny", 2, [0])
    assert (
        err.splitlines()[-1] == f"finished at step 2; records, rollouts and checkpoints: {tmp_path / 'runs' / 'tiny'}"
    )


def test_a_single_run_prints_itself_and_no_absent_controls(tiny_file, capsys):
    assert main(["train", str(tiny_file)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "tokens generated" in out
    assert "uniform" not in out
    assert "(control)" not in out


def test_a_run_ends_with_a_report(tiny_file, tmp_path, capsys):
    assert main(["train", str(tiny_file)]) == 0
    folder = tmp_path / "runs" / "tiny" / "report"
    assert f"report: {folder / 'report.md'} and {folder / 'report.html'}\n" in capsys.readouterr().out
    assert "<html" in (folder / "report.html").read_text()


@pytest.mark.parametrize("error", [RuntimeError("no font\nfor this"), MemoryError()])
def test_a_picture_that_cannot_be_drawn_never_fails_a_run(tiny_file, tmp_path, capsys, monkeypatch, error):
    def failing(*args):
        raise error

    monkeypatch.setattr(page, "draw_plots", failing)
    assert main(["train", str(tiny_file), "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == 1
    reason = str(error).partition("\n")[0] or "MemoryError"
    again = f"arrol report {tmp_path / 'runs' / 'tiny'}"
    assert f"report: not written ({reason}); the records are: {again} makes it\n" in err
    assert "finished at step 2" in err
    monkeypatch.undo()
    assert main(again.split()[1:]) == 0


@pytest.mark.parametrize("name", ["optimizer.safetensors", "policy/model.safetensors"])
def test_checkpoints_that_are_all_damaged_leave_the_records_alone(tiny_file, tmp_path, capsys, name):
    assert main(["train", str(tiny_file)]) == 0
    records, checkpoints = tmp_path / "runs" / "tiny" / "records.jsonl", tmp_path / "runs" / "tiny" / "checkpoints"
    before = records.read_bytes()
    for path in checkpoints.glob(f"step-*/{name}"):
        path.unlink()
    capsys.readouterr()
    assert main(["train", str(tiny_file), "--resume", "--training.steps", "3"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(
        f"arrol: checkpoint = {str(checkpoints)!r}: step-000002: {name} is absent; step-000001: {name}"
    )
    assert err.count("\n") == 1
    assert records.read_bytes() == before
    assert {path.name for path in checkpoints.iterdir()} == {"step-000001", "step-000002"}


def test_a_damaged_checkpoint_is_said_and_the_one_before_goes_on(tiny_file, tmp_path, capsys):
    assert main(["train", str(tiny_file), "--training.steps", "3"]) == 0
    folder = tmp_path / "runs" / "tiny"
    whole = read_run(folder)
    (folder / "checkpoints" / "step-000003" / "state.safetensors").write_bytes(b"")
    capsys.readouterr()
    assert main(["train", str(tiny_file), "--resume", "--training.steps", "3"]) == 0
    out = capsys.readouterr().out
    assert "warning: tiny: checkpoint step-000003: state.safetensors has 0 of its " in out
    assert " bytes; step-000002 is used\n" in out
    run = read_run(folder)
    assert (run.run.segment, run.run.resume_step) == (1, 2)
    assert run.rollouts[-2:] == tuple(replace(row, segment=1) for row in whole.rollouts[-2:])
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"step-000002", "step-000003"}


def test_records_that_are_damaged_before_the_checkpoints_are_refused(tiny_file, tmp_path, capsys):
    assert main(["train", str(tiny_file)]) == 0
    folder = tmp_path / "runs" / "tiny"
    records = folder / "records.jsonl"
    whole = records.read_bytes()
    lines = whole.splitlines(keepends=True)
    for content in (whole[: len(lines[0]) + 20], b"", b"".join(lines[:2] + lines[3:]), whole.replace(b"0.0", b"0.1")):
        records.write_bytes(content)
        capsys.readouterr()
        assert main(["train", str(tiny_file), "--resume", "--training.steps", "3"]) == 2
        err = capsys.readouterr().err
        assert err.count("step-000001: records.jsonl ") == err.count("step-000002: records.jsonl ") == 1, err
        assert f"begin another run with --model {folder / 'checkpoints' / 'step-000002' / 'policy'}" in err
        assert records.read_bytes() == content
        assert main(["report", str(folder)]) == 2
        assert f"records = {str(folder)!r}: records.jsonl " in capsys.readouterr().err
    records.write_bytes(whole.replace(b'"outcome": "finished"', b'"outcome": "fin1shed"'))
    with pytest.raises(DataError, match=r"records.jsonl is not what was written, .* as its manifest.json says; copy"):
        read_run(folder)
    records.write_bytes(whole)
    assert main(["train", str(tiny_file), "--resume", "--training.steps", "3"]) == 0


def test_a_run_without_checkpoints_starts_again(tiny_file, tmp_path, capsys):
    assert main(["train", str(tiny_file)]) == 0
    folder = tmp_path / "runs" / "tiny"
    whole = read_run(folder)
    shutil.rmtree(folder / "checkpoints")
    capsys.readouterr()
    assert main(["train", str(tiny_file), "--resume"]) == 0
    text = f"warning: tiny: no checkpoint in {folder / 'checkpoints'}; the run starts again with its first step\n"
    assert text in capsys.readouterr().out
    again = read_run(folder)
    assert (again.run.run_id, again.run.segment, again.run.resume_step) == (whole.run.run_id, 1, 0)
    assert again.rollouts == tuple(replace(row, segment=1) for row in whole.rollouts)


def test_what_lies_in_a_folder_decides_how_to_go_on(run_file, write_run):
    config = load_run(run_file)
    folder = run_folder(config)
    assert previous_record(config, resume=True) is None
    assert previous_record(config, resume=False) is None
    folder.mkdir(parents=True)
    (folder / "records.jsonl").write_text('{"kind":')
    assert previous_record(config, resume=True) is None
    assert previous_record(config, resume=False) is None
    shutil.rmtree(folder)
    other = config.model_copy(update={"seed": 1})
    written = {"config": portable(config.model_dump(mode="json")), "outcome": ""}
    write_run(folder, "mine", steps=0, **written)  # it learned nothing: another start takes its place
    assert previous_record(config, resume=True).name == "mine"
    assert previous_record(config, resume=False) is None
    assert previous_record(other, resume=True) is None
    shutil.rmtree(folder)
    write_run(folder, "mine", **written)
    assert previous_record(config, resume=True).name == "mine"
    with pytest.raises(CheckpointError, match="holds a run already; go on with --resume or choose another --name"):
        previous_record(config, resume=False)
    with pytest.raises(CheckpointError, match=r"^seed = 1: the run in that folder was made with 0; resume with that"):
        previous_record(other, resume=True)
    moved = config.model_copy(update={"model": "elsewhere/none", "device": "cpu"})
    assert previous_record(moved, resume=True).name == "mine"


def test_a_start_that_fails_leaves_nothing_and_its_name_is_free(tiny_file, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as broken:
        broken.setattr("arrol.training.trainer.Trainer.train_step", fail)
        assert main(["train", str(tiny_file)]) == 2
    assert list((tmp_path / "runs").iterdir()) == []
    assert main(["train", str(tiny_file), "--training.group_size", "4"]) == 0


def test_two_processes_never_write_to_one_run(tiny_file, tmp_path, capsys):
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    with Claim() as claim:
        claim.take(folder)
        assert main(["train", str(tiny_file)]) == 2
        line = (
            rf"arrol: name = 'tiny': process {os.getpid()} on \S+ \(since [-0-9: ]+ UTC\) writes to {folder}; wait for"
        )
        assert re.match(line, capsys.readouterr().err)
    assert main(["train", str(tiny_file)]) == 0
    assert not (folder / ".lock").exists()


def test_a_run_that_began_and_ended_during_the_checks_is_not_written_over(tiny_file, tmp_path, monkeypatch, capsys):
    original, folder = train.resolve_device, tmp_path / "runs" / "tiny"

    def slow(*given):
        monkeypatch.setattr(train, "resolve_device", original)
        assert main(["train", str(tiny_file)]) == 0
        return original(*given)

    monkeypatch.setattr(train, "resolve_device", slow)
    assert main(["train", str(tiny_file)]) == 2
    assert "holds a run already; go on with --resume" in capsys.readouterr().err
    assert read_run(folder).end.outcome == "finished"


def test_resume_under_a_mistyped_name_starts_nothing(tiny_file, tmp_path, write_run, capsys):
    write_run(tmp_path / "runs" / "tinny", "tinny")
    assert main(["train", str(tiny_file), "--resume"]) == 2
    runs = tmp_path / "runs"
    assert capsys.readouterr().err == (
        f"arrol: --resume: {runs / 'tiny'} holds no run to go on with; {runs} has tinny; write --name tinny, or leave "
        "--resume out to start it\n"
    )
    assert [path.name for path in runs.iterdir()] == ["tinny"]


def test_a_warm_start_is_no_run_to_go_on_with(run_file, write_run):
    config = load_run(run_file)
    write_run(run_folder(config), "mine", config={"steps": 3, "task": {"name": "arithmetic"}})
    with pytest.raises(CheckpointError, match="the run in that folder was made with"):
        previous_record(config, resume=True)
