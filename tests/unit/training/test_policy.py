"""Loading refuses what cannot be used, in one line."""

import json
import time
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from arrol.engines.embedded.support import max_positions
from arrol.errors import ConfigError, ModelError
from arrol.training.policy import (
    load_policy,
    load_tokenizer,
    require_positions,
    resolve_device,
    stop_token_ids,
)
from arrol.types import Prompt

CPU = torch.device("cpu")


@pytest.fixture
def folder(make_model, char_tokenizer, tmp_path):
    make_model(vocab_size=len(char_tokenizer), eos_token_id=1).save_pretrained(tmp_path / "model")
    char_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_folder_loads_in_float32_and_knows_its_end(folder):
    model, tokenizer = load_policy(str(folder), CPU), load_tokenizer(str(folder))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert tokenizer.eos_token_id in stop_token_ids(model, tokenizer)


def test_a_damaged_weight_file_is_one_line(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"model.safetensors is damaged .*; copy or save the model again") as caught:
        load_policy(str(folder), CPU)
    assert "\n" not in str(caught.value)


def test_quantised_weights_are_refused_before_they_are_read(folder):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as caught:
        load_policy(str(folder), CPU)
    assert str(caught.value) == (
        f"model = {str(folder)!r}: its weights are quantised (bitsandbytes), and training changes weights; give the "
        "model that it was made from"
    )


def test_a_missing_folder_names_the_field_and_the_next_step(tmp_path):
    with pytest.raises(ModelError, match=r"model = .*no such folder; give a folder"):
        load_policy(str(tmp_path / "absent"), CPU)


def test_a_device_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="device = 'gpu'"):
        resolve_device("gpu")


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"max_position_embeddings": 512, "rope_parameters": {"rope_type": "default"}}, 512),
        ({"max_position_embeddings": 100, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}, 400),
        (
            {
                "max_position_embeddings": 40,
                "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
            },
            128,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_parameters": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        ({}, None),
    ],
)
def test_positions_know_rope_scaling(config, limit):
    assert max_positions(SimpleNamespace(**config)) == limit


def test_prompt_and_completion_must_fit_the_positions():
    config, prompts = SimpleNamespace(max_position_embeddings=20), [Prompt("a", (1,) * 8, "a", "1")]
    require_positions(config, prompts, 12)
    with pytest.raises(ConfigError) as error:
        require_positions(config, prompts, 13)
    assert str(error.value) == (
        "sampling.max_completion_tokens = 13: with a prompt of 8 tokens it exceeds the 20 positions of the model "
        "(max_position_embeddings); lower it to 12"
    )


def test_a_cached_model_is_read_where_the_hub_does_not_answer(silent_hub, folder, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cache = tmp_path / "hub/models--owner--name"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text("abc")
    (cache / "snapshots").mkdir()
    folder.rename(cache / "snapshots/abc")
    asked, waits = [], []
    monkeypatch.setattr(time, "sleep", waits.append)
    for loader in (AutoTokenizer, AutoModelForCausalLM):
        load = loader.from_pretrained
        monkeypatch.setattr(loader, "from_pretrained", lambda *a, load=load, **k: asked.append(k) or load(*a, **k))
    assert load_tokenizer("owner/name").eos_token_id == 1
    assert load_policy("owner/name", CPU).config.vocab_size > 1
    assert [fields["local_files_only"] for fields in asked] == [True, True]
    assert waits == []  # no request is tried again
    with pytest.raises(ModelError, match=r"'owner/other': .* does not answer, and no copy is cached"):
        load_policy("owner/other", CPU)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokenizer.json", {"model": {"type": "WordLevel", "vocab": {"a": 10**400}}}),
        ("tokenizer.json", {"post_processor": {"type": "x"}}),
        ("tokenizer.json", {"added_tokens": [{"id": 0}]}),
        ("tokenizer_config.json", {"model_max_length": [1]}),
    ],
)
def test_a_tokenizer_with_a_wrong_value_is_one_line(folder, name, change):
    value = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(value | change))
    with pytest.raises(ModelError) as caught:
        load_tokenizer(str(folder))
    assert str(caught.value).startswith(f"model = {str(folder)!r}: no tokenizer could be loaded (")


@pytest.mark.parametrize("value", ["=", ["1"], [1, [2]], 1.5, True, {"a": 1}])
def test_an_end_that_is_no_token_is_one_line(value):
    model = SimpleNamespace(name_or_path="m", generation_config=SimpleNamespace(eos_token_id=value))
    with pytest.raises(ModelError, match=r"^model = 'm': generation_config.json has eos_token_id = .*; write the id"):
        stop_token_ids(model, SimpleNamespace(eos_token_id=1))


@pytest.mark.parametrize(("value", "ids"), [(None, (1,)), (2, (1, 2)), ([2, 3], (1, 2, 3)), ([], (1,))])
def test_ends_of_the_tokenizer_and_the_model(value, ids):
    model = SimpleNamespace(name_or_path="m", generation_config=SimpleNamespace(eos_token_id=value))
    assert stop_token_ids(model, SimpleNamespace(eos_token_id=1)) == ids
