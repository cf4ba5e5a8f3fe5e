"""A run to a folder that other engines serve."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from arrol.cli.main import main
from arrol.quality.snapshot import EstimatorSnapshot
from arrol.training.checkpoint import load_state, newest_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run of two steps on one-digit sums."""
    folder = tmp_path_factory.mktemp("export")
    config = folder / "run.toml"
    config.write_text(
        f"""
name = "run"
model = "models/arithmetic-base"
out_dir = "{folder}"
[task]
name = "arithmetic"
min_ops = 1
max_ops = 1
[sampling]
max_completion_tokens = 24
[pruning]
rule = "neyman"
probe_tokens = [4, 8]
warmup_steps = 1
[training]
steps = 2
prompts_per_step = 2
group_size = 4
[evaluation]
num_prompts = 4
"""
    )
    assert main(["train", str(config)]) == 0
    return folder / "run"


def logits_of(folder):
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits


@pytest.mark.parametrize("head_size", [None, 64])
def test_the_policy_is_the_checkpoints_whatever_the_head_size(run, tmp_path, head_size):
    flags = ["--head-size", str(head_size)] if head_size else []
    assert main(["export", str(run), "--to", str(tmp_path / "served"), *flags]) == 0
    checkpoint = newest_checkpoint(run / "checkpoints")
    served = tmp_path / "served" / "policy"
    torch.testing.assert_close(logits_of(served), logits_of(checkpoint / "policy"), atol=2e-4, rtol=1e-4)
    assert AutoModelForCausalLM.from_pretrained(served).config.head_dim == (head_size or 40)
    assert AutoTokenizer.from_pretrained(served).eos_token_id == 1


def test_the_estimator_is_the_checkpoints(run, tmp_path, capsys):
    assert main(["export", str(run), "--to", str(tmp_path / "served"), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    snapshot = EstimatorSnapshot.read(row["estimator"])
    state = load_state(newest_checkpoint(run / "checkpoints"))["estimator"]
    assert (row["probe_tokens"], row["step"]) == ([4, 8], 2)
    assert snapshot.version == row["estimator_version"] == state["version"] == 2
    assert str(snapshot.model) == row["model"]
    snapshot.require_model(AutoModelForCausalLM.from_pretrained(row["policy"]).config)
    saved = state["probes"]["1"]["head"]["first.weight"]
    assert torch.equal(snapshot._heads[1].first.weight, torch.from_numpy(saved))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--to", "{new}"], "run = 'nowhere': no such folder"),
        (["{run}", "--to", "{run}"], "exists and is not empty"),
        (
            ["{run}", "--to", "{new}", "--head-size", "39"],
            "head_size = 39: the model's heads have 40; give an even",
        ),
    ],
)
def test_bad_arguments_are_one_line_and_write_nothing(run, tmp_path, capsys, arguments, message):
    new = tmp_path / "new"
    filled = [text.format(run=run, new=new) for text in arguments]
    assert main(["export", *filled]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not new.exists()
