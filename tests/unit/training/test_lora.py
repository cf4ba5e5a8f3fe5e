"""Adapters: which weights learn, what is merged, what a folder of adapters gives, and what is refused."""

import json

import pytest
import torch

from arrol.configs.lora import LoraConfig
from arrol.configs.run import EngineConfig, RunConfig
from arrol.configs.task import ArithmeticTaskConfig
from arrol.engines.embedded.decoder import flat_decoder
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.engines.vllm.weights import plain_weights
from arrol.errors import ConfigError, MissingExtraError, ModelError
from arrol.training import lora as module
from arrol.training.checkpoint import save_policy
from arrol.training.lora import adapters_off, require_peft, require_targets, trained_weights, with_adapters
from arrol.training.policy import load_config, load_policy, load_tokenizer, load_trained
from arrol.types import GroupRequest, Prompt, SamplingParams

pytest.importorskip("peft")
CPU = torch.device("cpu")
IDS = torch.tensor([[3, 5, 7, 4, 6, 8]])


@pytest.fixture
def folder(tmp_path, make_model, char_tokenizer):
    """A model with its tokenizer."""
    make_model().save_pretrained(tmp_path / "base")
    char_tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapted(folder):
    """A model and its ``PeftModel``, whose adapters change the logits."""
    model, saved = load_trained(config_of(folder), str(folder), CPU, base=str(folder))
    return moved(model), saved


def config_of(folder, **fields):
    return RunConfig(model=str(folder), task=ArithmeticTaskConfig(), lora=LoraConfig(r=2, **fields))


def moved(model):
    with torch.no_grad():
        for weight in trained_weights(model):
            weight += 0.1
    return model


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_fresh_adapters_change_nothing_and_alone_learn(folder):
    model, _ = load_trained(config_of(folder), str(folder), CPU, base=str(folder))
    assert torch.equal(logits(model), logits(load_policy(str(folder), CPU)))
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert names
    assert all(".lora_" in name for name in names)
    assert not any("lm_head" in name for name in names)
    assert len(trained_weights(model)) == len(names) == 2 * 7 * 2  # two matrices of seven layers in two blocks


def test_the_seed_fixes_them_and_leaves_the_random_state_alone(folder):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, second = (with_adapters(load_policy(str(folder), CPU), LoraConfig(r=2), str(folder), s) for s in (0, 1))
    again = with_adapters(load_policy(str(folder), CPU), LoraConfig(r=2), str(folder), 0)
    assert torch.equal(torch.random.get_rng_state(), state)
    pairs = [(a, b, c) for a, b, c in zip(first.parameters(), second.parameters(), again.parameters(), strict=True)]
    assert all(torch.equal(a, c) for a, _, c in pairs)
    assert any(not torch.equal(a, b) for a, b, _ in pairs)


def test_chosen_layers_alone_get_adapters(folder):
    config = config_of(folder, target_modules=("q_proj", "layers.1.mlp.up_proj"))
    model, _ = load_trained(config, str(folder), CPU, base=str(folder))
    assert len(trained_weights(model)) == 2 * (2 + 1)


def test_the_engine_generates_with_the_adapters_on_its_flat_path(adapted, folder):
    model, _ = adapted
    engine = EmbeddedEngine(model, EngineConfig())
    assert flat_decoder(model) is not None
    request = [GroupRequest(1, 0, Prompt("k", (3, 5, 7), "", ""), 20)]
    (group,) = engine.generate(request, SamplingParams(6), seed=0)
    for one in group:
        ids = torch.tensor([[3, 5, 7, *one.token_ids]])
        with torch.no_grad():
            own = model(input_ids=ids).logits.log_softmax(-1)[0, 2:-1].gather(1, ids[0, 3:, None])[:, 0]
        assert torch.allclose(own, torch.from_numpy(one.sampler_logprobs_T), atol=1e-4)
    (plain,) = EmbeddedEngine(load_policy(str(folder), CPU), EngineConfig()).generate(
        request, SamplingParams(6), seed=0
    )
    assert [one.token_ids for one in plain] != [one.token_ids for one in group]


def test_a_folder_of_adapters_holds_them_alone_and_gives_the_merged_model(adapted, folder, tmp_path):
    model, saved = adapted
    save_policy(tmp_path / "adapters", saved, load_tokenizer(str(folder)))
    names = {path.name for path in (tmp_path / "adapters").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    whole = load_policy(str(tmp_path / "adapters"), CPU)
    assert type(whole) is type(model)
    assert not any(hasattr(layer, "lora_A") for layer in whole.modules())
    assert all(weight.requires_grad for weight in whole.parameters())
    assert torch.allclose(logits(whole), logits(model), atol=1e-5)
    assert not torch.allclose(logits(whole), logits(load_policy(str(folder), CPU)), atol=1e-2)
    assert load_config(str(tmp_path / "adapters")).hidden_size == model.config.hidden_size


def test_resumed_adapters_are_the_same_and_learn(adapted, folder, tmp_path):
    model, saved = adapted
    save_policy(tmp_path / "adapters", saved, load_tokenizer(str(folder)))
    again, _ = load_trained(config_of(folder), str(tmp_path / "adapters"), CPU, base=str(folder))
    pairs = list(zip(trained_weights(model), trained_weights(again), strict=True))
    assert len(pairs) == 28
    assert all(torch.equal(one, other) for one, other in pairs)


def test_without_a_tokenizer_a_folder_of_adapters_has_that_of_its_model(adapted, folder, tmp_path):
    adapted[1].save_pretrained(tmp_path / "adapters")
    assert load_tokenizer(str(tmp_path / "adapters")).get_vocab() == load_tokenizer(str(folder)).get_vocab()


def test_vllm_gets_plain_names_and_merged_copies(adapted, folder, tmp_path):
    model, _ = adapted
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    plain = load_policy(str(folder), CPU)
    given = dict(plain_weights(model))
    assert list(given) == [name for name, _ in plain.named_parameters(remove_duplicate=False)]
    plain.load_state_dict(given)
    assert torch.allclose(logits(plain), logits(model), atol=1e-5)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert all(a is b for a, b in zip(dict(plain_weights(plain)).values(), plain.parameters(), strict=True))


def test_with_adapters_off_the_model_is_its_base_and_they_learn_again_afterwards(adapted, folder):
    model, _ = adapted
    own, learning = logits(model), trained_weights(model)
    with adapters_off(model):
        assert torch.equal(logits(model), logits(load_policy(str(folder), CPU)))
    assert torch.equal(logits(model), own)
    assert trained_weights(model) == learning


def test_names_of_no_layer_are_refused_without_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        ConfigError, match=r"target_modules = \['nothing'\]: no linear layer .* 'nothing'; it has down_"
    ):
        require_targets(load_config(str(folder)), LoraConfig(target_modules=("nothing",)))
    for name in ("lm_head", "embed_tokens", "proj"):
        with pytest.raises(ConfigError, match="no linear layer inside the model"):
            require_targets(load_config(str(folder)), LoraConfig(target_modules=("q_proj", name)))
    require_targets(load_config(str(folder)), LoraConfig(target_modules=("q_proj", "self_attn.v_proj")))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"base_model_name_or_path": "gone"}, "names 'gone', where there is none; set base_model_name_or_path"),
        ({"base_model_name_or_path": None}, "names '', where there is none"),
        ({"peft_type": "PREFIX_TUNING"}, "adapters of type 'PREFIX_TUNING'; only LoRA can be merged"),
    ],
)
def test_adapters_without_their_model_are_one_line(adapted, tmp_path, facts, message):
    adapted[1].save_pretrained(tmp_path / "adapters")
    path = tmp_path / "adapters" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))
    for load in (lambda source: load_policy(source, CPU), load_config, load_tokenizer):
        with pytest.raises(ModelError, match=message) as caught:
            load(str(tmp_path / "adapters"))
        assert "\n" not in str(caught.value)


def test_a_relative_base_is_looked_for_in_the_folder_of_the_adapters_too(adapted, folder, tmp_path):
    adapted[1].save_pretrained(tmp_path / "adapters")
    path = tmp_path / "adapters" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "../base"}))
    assert torch.allclose(logits(load_policy(str(tmp_path / "adapters"), CPU)), logits(adapted[0]), atol=1e-5)


def test_adapters_of_another_model_are_one_line(adapted, make_model, tmp_path):
    adapted[1].save_pretrained(tmp_path / "adapters")
    make_model(hidden_size=16).save_pretrained(tmp_path / "other")
    path = tmp_path / "adapters" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(tmp_path / "other")}))
    with pytest.raises(ModelError, match=r"its adapters do not fit the model that adapter_config.json names") as caught:
        load_policy(str(tmp_path / "adapters"), CPU)
    assert "\n" not in str(caught.value)


def test_without_peft_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"^lora.r = 4: peft is not installed; run: pip install '\.\[lora\]'"):
        require_peft("lora.r = 4")
