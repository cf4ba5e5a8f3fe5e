"""A warm start leaves a model, and the record of how it was made and how good it is."""

import json

import pytest
import torch
from safetensors.torch import load_file

from arrol.cli.main import main
from arrol.records.store import read_run
from arrol.training import checkpoint
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
    assert "eval/dead_group_frac_8: " in out
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


def test_a_full_disk_is_one_line(sft_file, tmp_path, monkeypatch, capsys):
    def fail(self, *args, **kwargs):
        raise checkpoint.safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", fail)
    assert main(["sft", str(sft_file)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith(f"arrol: {tmp_path / 'warm' / '.partial-model'}: I/O error: No space left on device")
    assert not (tmp_path / "warm" / "model").exists()
