"""A warm start leaves a model, and the record of how it was made and how good it is."""

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from arrol.cli import sft, sft_judging
from arrol.cli.main import main
from arrol.records.store import read_run
from arrol.training import checkpoint
from arrol.training import sft as trained
from arrol.training.policy import load_policy, load_tokenizer, resolve_device


@pytest.fixture
def sft_file(tmp_path):
    path = tmp_path / "sft.toml"
    path.write_text(
        f'name = "warm"\nout_dir = {json.dumps(str(tmp_path))}\ndevice = "cpu"\n'
        "steps = 11\nbatch_size = 2\neval_prompts = 3\nmax_completion_tokens = 4\n"
        "shape = {hidden_size = 8, intermediate_size = 8, num_layers = 1, num_heads = 1, num_kv_heads = 1}\n"
        '[task]\nname = "countdown"\n'
    )
    return path


def test_a_model_its_tokenizer_and_its_record_are_left(sft_file, tmp_path, capsys):
    assert main(["sft", str(sft_file)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = [line.strip() for line in out.splitlines()]
    assert "the saved model" in lines
    assert next(line for line in lines if line.startswith("held-out prompts x 16 ")).endswith(" 3")
    assert any(line.startswith("groups of 8 all alike") and line.endswith("%") for line in lines)
    folder = tmp_path / "warm" / "model"
    assert load_policy(str(folder), resolve_device("cpu")).config.num_hidden_layers == 1
    assert load_tokenizer(str(folder)).eos_token == "<eos>"
    run = read_run(tmp_path / "warm")
    assert [step.step for step in run.steps] == [10, 11]
    assert (run.evals[0].num_prompts, run.evals[0].samples_per_prompt) == (3, 16)
    assert (run.end.outcome, run.run.config["steps"]) == ("finished", 11)


def test_a_seed_repeats_it_and_json_is_all_that_stands_on_stdout(sft_file, tmp_path, capsys):
    weights = []
    for name in ("a", "b"):
        assert main(["sft", str(sft_file), "--json", "--name", name, "--save_dtype", "bfloat16"]) == 0
        assert json.loads(capsys.readouterr().out)["accuracy"] >= 0
        weights.append((tmp_path / name / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_a_model_can_be_tuned_on_demonstrations_of_a_file(sft_file, tmp_path, capsys):
    assert main(["sft", str(sft_file)]) == 0
    (tmp_path / "some.jsonl").write_text('{"prompt": "1", "solution": "2"}\n')
    flags = ["--model", str(tmp_path / "warm" / "model"), "--demonstrations", str(tmp_path / "some.jsonl")]
    assert main(["sft", str(sft_file), "--name", "tuned", *flags]) == 0
    last = read_run(tmp_path / "tuned").steps[-1]
    assert last.metrics["tokens/trained"] == 4


def test_adapters_learn_and_are_merged_into_the_saved_model(sft_file, tmp_path, capsys):
    pytest.importorskip("peft")
    assert main(["sft", str(sft_file)]) == 0
    base = tmp_path / "warm" / "model"
    flags = ["--model", str(base), "--lora.r", "2", "--lora.dropout", "0.1", "--lora.target_modules", "q_proj"]
    assert main(["sft", str(sft_file), "--name", "tuned", *flags]) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "tuned" / "model"))
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert before.keys() == after.keys()
    assert changed == ["model.layers.0.self_attn.q_proj.weight"]


def test_adapters_of_a_new_model_are_refused(sft_file, capsys):
    assert main(["sft", str(sft_file), "--lora.r", "2"]) == 2
    assert "lora.r = 2: adapters need a trained model; name one in model" in capsys.readouterr().err


@pytest.mark.parametrize("lora", [[], ["--lora.r", "2", "--lora.dropout", "0.3"]])
def test_a_resumed_warm_start_equals_the_whole_one(sft_file, tmp_path, capsys, monkeypatch, lora):
    if lora:
        pytest.importorskip("peft")
        assert main(["sft", str(sft_file), "--name", "base"]) == 0
        lora = [*lora, "--model", str(tmp_path / "base" / "model")]
    command = ["sft", str(sft_file), "--checkpoint_every", "4", *lora]
    assert main([*command, "--out_dir", str(tmp_path / "whole")]) == 0
    real = sft.save_checkpoint

    def interrupted(folder, step, *rest):
        real(folder, step, *rest)
        if step == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(sft, "save_checkpoint", interrupted)
    assert main(command) == 130
    assert "go on with --resume" in capsys.readouterr().err
    monkeypatch.setattr(sft, "save_checkpoint", real)
    assert main(command) == 2
    assert "holds a warm start that was interrupted; go on with --resume" in capsys.readouterr().err
    assert main([*command, "--resume", "--batch_size", "3"]) == 2
    assert "batch_size = 3: the run in that folder was made with 2" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    ours, theirs = (read_run(folder) for folder in (tmp_path / "warm", tmp_path / "whole" / "warm"))
    assert [step.step for step in ours.steps] == [10, 11]
    assert (ours.run.segment, ours.run.resume_step) == (1, 8)
    for one, other in zip(ours.steps, theirs.steps, strict=True):
        assert all(one.metrics[key] == value for key, value in other.metrics.items() if not key.startswith("time/"))
    whole = tmp_path / "whole" / "warm"
    assert (tmp_path / "warm/model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()
    assert not (tmp_path / "warm" / "checkpoints").exists()
    assert main([*command, "--resume"]) == 2
    assert "model is finished; choose another --name, or leave --resume out" in capsys.readouterr().err


def test_a_damaged_checkpoint_of_a_warm_start_gives_way_to_the_one_before(sft_file, tmp_path, capsys, monkeypatch):
    command = ["sft", str(sft_file), "--checkpoint_every", "4"]
    assert main([*command, "--out_dir", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as broken:
        broken.setattr(sft, "_saved_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(command) == 130
    folder = tmp_path / "warm"
    state = folder / "checkpoints" / "step-000008" / "state.json"
    state.write_text(state.read_text().replace('"step": 8', '"step": 9'))
    capsys.readouterr()
    assert main([*command, "--resume"]) == 0
    line = "warning: warm: checkpoint step-000008: state.json is not what was written; step-000004 is used\n"
    assert line in capsys.readouterr().out
    assert read_run(folder).run.resume_step == 4
    ours, theirs = (path / "model" / "model.safetensors" for path in (folder, tmp_path / "whole" / "warm"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_warm_start_that_died_before_its_evaluation_is_finished(sft_file, tmp_path, capsys, monkeypatch):
    command = ["sft", str(sft_file), "--checkpoint_every", "4"]
    with monkeypatch.context() as broken:
        broken.setattr(sft, "judge_saved", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(command) == 130
    model = tmp_path / "warm" / "model" / "model.safetensors"
    before = model.read_bytes()
    assert main([*command, "--resume"]) == 0
    assert model.read_bytes() == before
    run = read_run(tmp_path / "warm")
    assert (run.end.outcome, len(run.evals), run.run.resume_step) == ("finished", 1, 11)
    assert {path.name for path in (tmp_path / "warm").iterdir()} == {"model", "records.jsonl", "manifest.json"}
    assert main([*command, "--resume"]) == 2
    assert "model is finished; choose another" in capsys.readouterr().err


def test_damaged_records_of_a_warm_start_are_refused(sft_file, tmp_path, capsys, monkeypatch):
    command = ["sft", str(sft_file), "--steps", "15", "--checkpoint_every", "12"]
    with monkeypatch.context() as broken:
        broken.setattr(sft, "_saved_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(command) == 130
    records = tmp_path / "warm" / "records.jsonl"
    for content in (b"", records.read_bytes().replace(b'"loss/sft": ', b'"loss/sft": 1')):
        records.write_bytes(content)
        capsys.readouterr()
        assert main([*command, "--resume"]) == 2
        assert "step-000012: records.jsonl " in capsys.readouterr().err
        assert records.read_bytes() == content


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["encode_demonstrations", "learning_rate"])
def test_a_signal_saves_and_ends_without_checkpoint_every(sft_file, tmp_path, capsys, monkeypatch, number, moment):
    """A step without its gradient is given up and repeated; one whose update has begun is finished."""
    command = ["sft", str(sft_file)]
    assert main([*command, "--out_dir", str(tmp_path / "whole")]) == 0
    real, calls = getattr(trained, moment), []

    def signalled(*given):
        calls.append(given)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return real(*given)

    save = sft.save_checkpoint

    def signalled_again(*given):
        if number == signal.SIGTERM:  # a second Ctrl-C ends at once
            os.kill(os.getpid(), number)
        return save(*given)

    monkeypatch.setattr(trained, moment, signalled)
    monkeypatch.setattr(sft, "save_checkpoint", signalled_again)
    capsys.readouterr()
    assert main(command) == 130
    out, err = capsys.readouterr()
    assert (err, out.splitlines()[-1]) == ("", f"stopped and saved; go on with --resume: {tmp_path / 'warm'}")
    end, done = read_run(tmp_path / "warm").end, 2 if moment == "encode_demonstrations" else 3
    assert (end.outcome, end.step, len(calls)) == ("stopped", done, 3)
    assert main([*command, "--resume"]) == 0
    ours, theirs = (folder / "warm" / "model" / "model.safetensors" for folder in (tmp_path, tmp_path / "whole"))
    assert len(calls) == 11 + (done == 2)
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_signal_before_the_first_step_has_ended_leaves_nothing(sft_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trained, "encode_demonstrations", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["sft", str(sft_file)]) == 130
    assert capsys.readouterr().out.splitlines()[-1] == "stopped before the first step had ended; nothing is kept"
    assert not (tmp_path / "warm").exists()


@pytest.mark.parametrize("every", ["0", "4"])
def test_an_evaluation_that_is_given_up_is_repeated_alone(sft_file, tmp_path, capsys, monkeypatch, every):
    command = ["sft", str(sft_file), "--checkpoint_every", every]
    assert main([*command, "--out_dir", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as broken:
        broken.setattr(sft_judging, "sample_prompts", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        capsys.readouterr()
        assert main(command) == 130
    model, folder = tmp_path / "warm" / "model", tmp_path / "warm"
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"stopped; {model} is whole and not evaluated yet; go on with --resume: {folder}"
    weights = (model / "model.safetensors").read_bytes()
    assert main(command) == 2
    assert "holds a warm start that was interrupted; go on with --resume" in capsys.readouterr().err
    monkeypatch.setattr(trained, "encode_demonstrations", lambda *_: pytest.fail("nothing is trained"))
    assert main([*command, "--resume"]) == 0
    assert (model / "model.safetensors").read_bytes() == weights
    ours, theirs = (read_run(path) for path in (folder, tmp_path / "whole" / "warm"))
    assert (ours.end.outcome, ours.run.segment, ours.run.resume_step) == ("finished", 1, 11)
    assert [step.step for step in ours.steps] == [10, 11]
    assert ours.evals[0].metrics == theirs.evals[0].metrics
    assert not (folder / "checkpoints").exists()
    assert main([*command, "--resume"]) == 2
    assert "model is finished; choose another --name, or leave --resume out" in capsys.readouterr().err


def test_a_demonstration_beyond_the_positions_is_refused_before_anything_is_written(sft_file, tmp_path, capsys):
    assert main(["sft", str(sft_file), "--shape.max_positions", "16", "--max_completion_tokens", "1"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("arrol: ")
    assert "16 positions (max_position_embeddings); leave it out, or take a model with more" in err
    rows = tmp_path / "long.jsonl"
    rows.write_text('{"prompt": "1", "solution": "2"}\n' + json.dumps({"prompt": "1", "solution": "2" * 600}) + "\n")
    assert main(["sft", str(sft_file), "--demonstrations", str(rows)]) == 2
    assert capsys.readouterr().err == (
        f"arrol: demonstrations: the one with the solution '{'2' * 40}' has 602 tokens, and the model has 512 "
        "positions (max_position_embeddings); leave it out, or take a model with more\n"
    )
    assert not (tmp_path / "warm").exists()


def test_a_mistyped_name_is_no_new_start(sft_file, tmp_path, capsys):
    assert main(["sft", str(sft_file)]) == 0
    assert main(["sft", str(sft_file), "--name", "wram", "--resume"]) == 2
    assert "holds no run to go on with; " in (err := capsys.readouterr().err)
    assert "write --name warm, or leave --resume out" in err


def test_own_rows_and_those_of_a_file_get_the_prompt_of_arrol_train(sft_file, tmp_path, capsys, monkeypatch):
    rows = [{"question": f"{n}+1", "answer": str(n + 1), "solution": f"{n}+1={n + 1}"} for n in range(60)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["sft", str(sft_file)]) == 0
    seen = []

    def catch(model, tokenizer, demonstration, *_):
        seen.append([(tokenizer.decode(prompt), text) for prompt, text in (demonstration(i, False) for i in range(3))])

    monkeypatch.setattr(sft, "warm_start", catch)
    task = ["--task.name", "dataset", "--task.source", str(data), "--task.template", "{question}="]
    command = ["sft", str(sft_file), "--model", str(tmp_path / "warm" / "model"), *task]
    assert main([*command, "--name", "own"]) == 0
    assert main([*command, "--name", "file", "--demonstrations", str(data)]) == 0
    own, of_file = seen
    assert own[0] in [(f"{n}+1=", f" {n}+1={n + 1}") for n in range(60)]
    assert of_file == [("0+1=", " 0+1=1"), ("1+1=", " 1+1=2"), ("2+1=", " 2+1=3")]


def test_a_full_disk_is_one_line(sft_file, tmp_path, monkeypatch, capsys):
    def fail(self, *args, **kwargs):
        raise checkpoint.safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", fail)
    assert main(["sft", str(sft_file)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith(f"arrol: {tmp_path / 'warm' / '.partial-model'}: I/O error: No space left on device")
    assert not (tmp_path / "warm" / "model").exists()
