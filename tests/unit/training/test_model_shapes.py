"""A config that asks for other or more weights than the files hold is refused, and nothing is allocated for it."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from arrol.errors import ModelError
from arrol.training.model_files import held_shapes
from arrol.training.model_shapes import matching_shapes, wanted_shapes
from arrol.training.policy import load_config, load_policy

CPU = torch.device("cpu")
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def folder(make_model, tmp_path):
    make_model(vocab_size=26, tie_word_embeddings=True).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def changed(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    if "num_hidden_layers" in fields:  # as an older config has it
        config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def test_a_saved_model_asks_for_what_its_files_hold(folder, any_model, tmp_path):
    held = held_shapes(folder)
    assert held == wanted_shapes(load_config(str(folder)))
    assert held[EMBEDDING] == (26, 32)
    assert matching_shapes(folder, load_config(str(folder)), "model = 'm'") == held
    any_model.save_pretrained(tmp_path / "any", max_shard_size="20KB")
    assert (tmp_path / "any" / "model.safetensors.index.json").exists()
    assert held_shapes(tmp_path / "any") == {name: tuple(w.shape) for name, w in any_model.named_parameters()}
    matching_shapes(tmp_path / "any", load_config(str(tmp_path / "any")), "model = 'm'")


TABLE = [
    (
        {"vocab_size": 1000},
        f"{EMBEDDING} of 1000 x 32 (vocab_size = 1000), the weights have 26 x 32; such a model takes",
    ),
    ({"vocab_size": 10**9}, "such a model takes 119 GiB, and"),
    ({"vocab_size": 20}, f"{EMBEDDING} of 20 x 32 (vocab_size = 20), the weights have 26 x 32;"),
    ({"hidden_size": 10**8}, f"{EMBEDDING} of 26 x 100000000 (hidden_size = 100000000), the weights have 26 x 32;"),
    ({"intermediate_size": 10**7}, "gate_proj.weight of 10000000 x 32 (intermediate_size = 10000000), the weights"),
    ({"head_dim": 10**6}, "self_attn.q_proj.weight of 4000000 x 32, the weights have 32 x 32;"),
    ({"num_key_value_heads": 4}, "self_attn.k_proj.weight of 32 x 32 (hidden_size = 32), the weights have 16 x 32;"),
    ({"num_hidden_layers": 3}, "config.json asks for 11 weights that the files lack, such as model.layers.2."),
    ({"num_hidden_layers": 10**12}, "config.json has num_hidden_layers = 1000000000000, and the weights are 24 arrays"),
    ({"text_config": {"n_layers": 10**12}}, "config.json has n_layers = 1000000000000, and the weights are 24 arrays"),
    ({"tie_word_embeddings": False}, "config.json asks for 1 weight that the files lack, such as lm_head.weight;"),
    ({"model_type": "gpt2"}, "weights that the files lack, such as transformer.wte.weight; such a model takes"),
    ({"num_attention_heads": 0}, "could not be loaded (integer division or modulo by zero); give a folder"),
    ({"vocab_size": -1}, "could not be loaded (Trying to create tensor with negative dimension -1: [-1, 32]); give"),
    ({"vocab_size": 10**20}, "could not be loaded (empty(): argument 'size' failed to unpack"),
    ({"max_position_embeddings": "x"}, "could not be loaded (Validation error for field 'max_position_embeddings'"),
    ({"dtype": "nothing"}, "could not be loaded (module 'torch' has no attribute 'nothing'); give a folder"),
    ({"model_type": "nothing"}, "could not be loaded (The checkpoint you are trying to load has model type `nothing`"),
]
"""Fields of config.json, and a part of the line that refuses them."""


@pytest.mark.parametrize(("fields", "words"), TABLE, ids=[str(fields) for fields, _ in TABLE])
def test_a_config_unlike_the_weights_is_one_line(folder, fields, words):
    changed(folder, **fields)
    with pytest.raises(ModelError) as caught:
        load_policy(str(folder), CPU)
    line = str(caught.value)
    assert line.startswith(f"model = {str(folder)!r}: ")
    assert words in line
    assert "\n" not in line
    assert len(line) < 500


def test_the_files_of_the_index_count_and_no_other(folder):
    """Some models come with a second copy of their weights under other names."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        save_file({f"other.{name}": file.get_tensor(name) for name in file.keys()}, folder / "consolidated.safetensors")  # noqa: SIM118
    assert set(held_shapes(folder)) == set(wanted_shapes(load_config(str(folder))))


def test_what_cannot_be_known_is_left_to_the_loader(folder, tmp_path):
    weights, config = folder / "model.safetensors", load_config(str(folder))
    weights.write_bytes(weights.read_bytes()[:50])
    assert held_shapes(folder) == {}
    assert matching_shapes(folder, config, "model = 'm'") == wanted_shapes(config) == matching_shapes(None, config, "")
    assert held_shapes(tmp_path) == {}


def test_weights_that_the_config_has_no_place_for_are_named(folder, caplog):
    """The norms of queries and keys make a Qwen3 another model than a Llama of the same shape."""
    changed(folder, model_type="llama", architectures=["LlamaForCausalLM"])
    load_policy(str(folder), CPU)
    (message,) = [record.getMessage() for record in caplog.records if record.name == "arrol.training.policy"]
    assert message == (
        f"arrol: model = {str(folder)!r}: config.json has no place for 4 weights of the files, such as "
        "model.layers.0.self_attn.k_norm.weight; unless you expect that, mend config.json, or copy or save the model "
        "again"
    )


def test_weights_that_lack_under_other_names_are_found_by_the_loader(folder):
    """As many numbers as the config asks for, under names that the model does not have."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    arrays["other.weight"] = arrays.pop("model.norm.weight")
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"asks for 1 weight that the files lack, such as model.norm.weight; mend"):
        load_policy(str(folder), CPU)


def test_a_copy_loads(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    load_policy(str(tmp_path / "copy"), CPU)
