"""Which cache a model gets by what its passes give, and the models that are refused."""

import pytest
import torch
import transformers

from arrol.configs.run import EngineConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.engines.embedded.own_cache import OwnCache
from arrol.engines.embedded.steps import ModelSteps, require_supported
from arrol.errors import ModelError
from arrol.types import SamplingParams
from doubles import PROMPTS, requests_for, tokens_of

SMALL = {"vocab_size": 24, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "pad_token_id": 0}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
SMALL |= {"bos_token_id": 1, "eos_token_id": 2}


def gpt2(**changes):
    """Its keys have four heads, whatever a config of it says of key-value heads."""
    torch.manual_seed(3)
    shape = {"vocab_size": 24, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, **changes)).eval()


def test_a_config_that_names_other_heads_than_the_model_has_gets_the_models_own_cache():
    plain, odd = gpt2(), gpt2(num_key_value_heads=2)
    assert not ModelSteps(odd).runs_in_rows()
    engines = [EmbeddedEngine(model, EngineConfig()) for model in (plain, odd)]
    assert isinstance(engines[1]._cache, OwnCache)
    first, second = (engine.generate(requests_for(PROMPTS, 3), SamplingParams(12), seed=1) for engine in engines)
    assert tokens_of(first) == tokens_of(second)


@pytest.mark.parametrize("window", [None, 4])
def test_mistral_runs_with_and_without_its_window(window):
    torch.manual_seed(3)
    model = transformers.MistralForCausalLM(transformers.MistralConfig(**SMALL, sliding_window=window)).eval()
    assert ModelSteps(model).runs_in_rows() == (window is None)


def test_rows_that_are_wrong_are_not_used(make_model, monkeypatch):
    """Keys at wrong places give other hidden states, and no error."""
    model = make_model()
    assert ModelSteps(model).runs_in_rows()
    monkeypatch.setattr("arrol.engines.embedded.cache.RowCache.end_step", lambda cache: None)
    assert not ModelSteps(model).runs_in_rows()


def test_a_forward_pass_that_fails_is_one_line(make_model):
    model = make_model()
    model.model.layers[0].self_attn.o_proj = torch.nn.Linear(3, 3)
    with pytest.raises(ModelError) as error:
        require_supported(model)
    text = str(error.value)
    assert text.startswith("model = Qwen3ForCausalLM: its forward pass failed on a short text (mat1 and mat2")
    assert text.endswith("; generate with vLLM (TRL: use_vllm = True)")


def test_weights_without_a_finite_logit_are_one_line(make_model):
    model = make_model()
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    with pytest.raises(ModelError) as error:
        EmbeddedEngine(model, EngineConfig())
    assert str(error.value) == (
        "model = Qwen3ForCausalLM: none of its logits is a finite number, so its weights or its config.json are "
        "damaged; copy or save the model again"
    )
