"""A run with adapters: killed and resumed, evaluated, exported and collected; its model's folder never changes."""

import json
import signal

import pytest
import torch
from transformers import AutoModelForCausalLM

from arrol.cli.main import main
from arrol.records.store import read_run
from arrol.training.checkpoint import newest_checkpoint
from arrol.training.policy import load_trained
from integration import tiny
from integration.test_resume import assert_same_run

pytest.importorskip("peft")
LORA = ["--lora.r", "4", "--lora.target_modules", "q_proj,v_proj,down_proj"]
KL = ["--algorithm.kl_coef", "0.1"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model_folder, prompt_folder):
    """A run with adapters that nothing interrupted, and the bytes of its model before it."""
    folder = tmp_path_factory.mktemp("whole")
    config = tiny.save_config(folder / "tiny.toml", model_folder, prompt_folder, folder / "runs")
    before = contents(model_folder)
    assert tiny.finish(["train", config, *LORA, *KL], folder / "log") == 0, (folder / "log").read_text()
    return folder / "runs" / "tiny", before


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_only_adapters_learn_and_are_stored(whole, model_folder):
    folder, before = whole
    policy = newest_checkpoint(folder / "checkpoints") / "policy"
    assert {path.name for path in policy.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert contents(model_folder) == before
    metrics = [step.metrics for step in read_run(folder).steps]
    assert sum(one["loss/grad_norm"] > 0 for one in metrics) >= 6
    assert metrics[-1]["loss/kl"] > 0


def test_a_killed_and_resumed_run_equals_the_whole_one(whole, config, tmp_path):
    command, kill_at = ["train", config, *LORA, *KL], ("arrol.training.learner", "Learner.update", 4)
    assert tiny.finish(command, tmp_path / "log", kill_at) == -signal.SIGKILL
    assert tiny.finish([*command, "--resume"], tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert_same_run(tmp_path / "runs" / "tiny", whole[0])


def test_another_rank_is_no_resume(whole, model_folder, prompt_folder, capsys):
    config = tiny.save_config(whole[0].parents[1] / "other.toml", model_folder, prompt_folder, whole[0].parent)
    assert main(["train", str(config), *LORA[2:], "--lora.r", "8", *KL, "--resume"]) == 2
    assert "lora.r = 8: the run in that folder was made with 4; resume with that value" in capsys.readouterr().err


def test_the_export_is_the_merged_model(whole, tmp_path, capsys):
    folder, _ = whole
    assert main(["export", str(folder), "--to", str(tmp_path / "out")]) == 0
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "policy")
    config = tiny_config(folder)
    source = str(newest_checkpoint(folder / "checkpoints") / "policy")
    adapted, _ = load_trained(config, source, torch.device("cpu"), base=config.model)
    base = AutoModelForCausalLM.from_pretrained(config.model)
    ids = torch.tensor([[3, 4, 5, 3, 4]])
    with torch.no_grad():
        ours, theirs, plain = (model(input_ids=ids).logits for model in (exported, adapted, base))
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, plain, atol=1e-4)
    capsys.readouterr()


def tiny_config(folder):
    from arrol.configs.base import validate
    from arrol.configs.run import RunConfig
    from arrol.training.checkpoint import load_state

    return validate(RunConfig, load_state(newest_checkpoint(folder / "checkpoints"))["config"])


def test_run_and_folder_of_adapters_are_evaluated_alike(whole, tmp_path, prompt_folder, capsys):
    folder, _ = whole
    policy = newest_checkpoint(folder / "checkpoints") / "policy"
    shared = ["--evaluation.num_prompts", "4", "--evaluation.samples_per_prompt", "2", "--json"]
    shared += ["--sampling.max_completion_tokens", "10", "--device", "cpu"]
    assert main(["eval", str(folder), *shared, "--out", str(tmp_path / "a.jsonl")]) == 0
    task = ["--task.source", str(prompt_folder / "test.jsonl")]
    assert main(["eval", str(policy), *shared, *task, "--out", str(tmp_path / "b.jsonl")]) == 0
    capsys.readouterr()
    one, other = (written(tmp_path / f"{name}.jsonl") for name in "ab")
    assert one == other
    assert len(one) == 8


def written(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [sample["completion"] for row in rows for sample in row["samples"]]


def test_the_laboratory_sketches_the_adapters(whole, tmp_path, capsys):
    out = tmp_path / "pool.safetensors"
    command = ["lab", str(whole[0]), "--prompts", "6", "--rollouts", "12", "--sketch-size", "16", "--out", str(out)]
    assert main([*command, "--parameters", "*lora_B*"]) == 0
    assert main([*command[:-1], str(tmp_path / "none.safetensors"), "--parameters", "*.base_layer.*"]) == 2
    assert "no parameter of the model matches; the first is 'model.layers.0." in capsys.readouterr().err
