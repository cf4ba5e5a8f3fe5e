"""Nothing that is loaded runs code: pickles and modules inside the folders of a model leave no trace.

Each of them would write a canary file if it ran. The tests answer "yes" to any question that a library may ask.
"""

import builtins
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from arrol.errors import ModelError
from arrol.training.lora import loaded_adapters
from arrol.training.policy import load_config, load_policy, load_tokenizer

CPU = torch.device("cpu")
MODULE = """
from pathlib import Path
Path({canary!r}).write_text("a module of the folder ran")
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

class Config(PretrainedConfig):
    model_type = "stranger"

class Model(PreTrainedModel):
    config_class = Config

class Tokenizer(PreTrainedTokenizerFast):
    pass

def generate(model, *args, **kwargs):
    return None
"""
AUTO_MAP = {"AutoConfig": "canary.Config", "AutoModelForCausalLM": "canary.Model"}


class Written:
    """What a hostile pickle holds: reading it writes the canary."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.write_text, (self.canary, "a pickle ran")


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """The file that hostile code would write."""
    monkeypatch.setattr(builtins, "input", lambda *_: "y")
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), path.read_text()


@pytest.fixture
def folder(make_model, char_tokenizer, tmp_path):
    """A model with its tokenizer."""
    make_model(vocab_size=len(char_tokenizer), eos_token_id=1).save_pretrained(tmp_path / "model")
    char_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def lay_module(folder, canary):
    (folder / "canary.py").write_text(MODULE.format(canary=str(canary)))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(MODULE.format(canary=str(canary)))


def lay_pickle(path, canary):
    path.write_bytes(pickle.dumps(Written(canary)))


def test_the_canary_is_written_when_a_pickle_or_a_module_runs(tmp_path):
    """The check of the checks."""
    lay_pickle(tmp_path / "hostile.pkl", tmp_path / "one")
    pickle.loads((tmp_path / "hostile.pkl").read_bytes())
    assert (tmp_path / "one").read_text() == "a pickle ran"
    lay_module(tmp_path, tmp_path / "two")
    subprocess.run([sys.executable, str(tmp_path / "canary.py")], check=True)
    assert (tmp_path / "two").exists()


def test_a_known_model_with_a_module_of_its_own_is_loaded_without_it(folder, canary):
    lay_module(folder, canary)
    change(folder / "config.json", auto_map=AUTO_MAP)
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "canary.Tokenizer"]})
    assert load_config(str(folder)).model_type == "qwen3"
    assert type(load_policy(str(folder), CPU)).__module__.startswith("transformers.")
    assert load_tokenizer(str(folder)).eos_token_id == 1


def test_a_model_that_needs_a_module_of_its_own_is_refused(folder, canary):
    lay_module(folder, canary)
    change(folder / "config.json", auto_map=AUTO_MAP, model_type="stranger", architectures=["Model"])
    for load in (load_config, lambda source: load_policy(source, CPU)):
        with pytest.raises(ModelError) as caught:
            load(str(folder))
        assert str(caught.value) == (
            f"model = {str(folder)!r}: needs code of its own (auto_map in config.json), and arrol runs none that comes "
            "with a model; give a model that transformers knows"
        )


def test_a_tokenizer_that_needs_a_module_of_its_own_is_refused(folder, canary):
    lay_module(folder, canary)
    auto_map = {"AutoTokenizer": [None, "canary.Tokenizer"]}
    change(folder / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="Tokenizer")
    change(folder / "config.json", model_type="stranger")
    with pytest.raises(ModelError, match=r"needs code of its own \(auto_map in tokenizer_config.json\)"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_attention_from_a_repository_is_refused(folder, canary, field):
    change(folder / "config.json", **{field: "owner/kernel@main:run"})
    with pytest.raises(ModelError, match=rf"config.json asks for code to load \({field} = 'owner/kernel@main:run'\)"):
        load_policy(str(folder), CPU)


def test_weights_as_pickle_are_refused(folder, canary):
    (folder / "model.safetensors").unlink()
    lay_pickle(folder / "pytorch_model.bin", canary)
    with pytest.raises(ModelError) as caught:
        load_policy(str(folder), CPU)
    assert str(caught.value) == (
        f"model = {str(folder)!r}: its weights are a pickle (pytorch_model.bin), which arrol does not read; save the "
        "model again with save_pretrained, which writes safetensors"
    )


def test_pickles_beside_whole_weights_are_not_read(folder, canary):
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.pkl", "adapter_model.bin"):
        lay_pickle(folder / name, canary)
    load_policy(str(folder), CPU)
    load_tokenizer(str(folder))


@pytest.fixture
def adapters(folder, tmp_path):
    """LoRA adapters of the model."""
    peft = pytest.importorskip("peft")
    base = load_policy(str(folder), CPU)
    made = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    made.peft_config["default"].base_model_name_or_path = str(folder)
    made.save_pretrained(tmp_path / "adapters")
    return tmp_path / "adapters"


def resume(checkpoint, device):
    """As a run does with the adapters of its checkpoint."""
    base = str(Path(checkpoint).parent / "model")
    return loaded_adapters(load_policy(base, device), Path(checkpoint), trains=True, base=base)


def test_adapters_as_pickle_are_refused(adapters, canary):
    (adapters / "adapter_model.safetensors").unlink()
    lay_pickle(adapters / "adapter_model.bin", canary)
    with pytest.raises(ModelError, match=r"its weights are a pickle \(adapter_model.bin\), which arrol does not read"):
        load_policy(str(adapters), CPU)


@pytest.mark.parametrize("load", [load_policy, resume])
def test_adapters_that_name_a_module_are_refused(adapters, canary, monkeypatch, load):
    lay_module(adapters, canary)
    monkeypatch.syspath_prepend(str(adapters))
    change(adapters / "adapter_config.json", megatron_core="canary", megatron_config={"hidden_size": 1})
    with pytest.raises(ModelError, match=r"adapter_config.json asks for code to load \(megatron_core = 'canary'\)"):
        load(str(adapters), CPU)


def test_caches_that_adapters_name_are_not_read(adapters, canary):
    lay_pickle(adapters / "cache.pt", canary)
    cache = {"cache_file": str(adapters / "cache.pt"), "covariance_file": str(adapters / "cache.pt")}
    change(adapters / "adapter_config.json", init_lora_weights="corda", corda_config=cache)
    with pytest.raises(ModelError, match=r"its adapters do not fit the model .* run `preprocess_corda` first"):
        load_policy(str(adapters), CPU)


@pytest.fixture
def cached(silent_hub, folder, tmp_path, monkeypatch):
    """The model as the hub's ``owner/name`` in the cache of a machine without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    place = tmp_path / "hub" / "models--owner--name"
    (place / "snapshots").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    folder.rename(place / "snapshots" / "abc")
    return place / "snapshots" / "abc"


def test_a_model_of_the_hub_is_held_to_the_same(cached, canary):
    load_policy("owner/name", CPU)
    lay_module(cached, canary)
    lay_pickle(cached / "pytorch_model.bin", canary)
    weights = (cached / "model.safetensors").read_bytes()
    (cached / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model = 'owner/name': could not be loaded"):
        load_policy("owner/name", CPU)
    (cached / "model.safetensors").write_bytes(weights)
    change(cached / "config.json", attn_implementation="owner/kernel")
    with pytest.raises(ModelError, match=r"asks for code to load \(attn_implementation = 'owner/kernel'\)"):
        load_policy("owner/name", CPU)
    change(cached / "config.json", attn_implementation="sdpa", auto_map=AUTO_MAP, model_type="stranger")
    with pytest.raises(ModelError, match=r"needs code of its own"):
        load_policy("owner/name", CPU)
