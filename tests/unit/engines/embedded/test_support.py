"""A model that the engine would run wrongly is refused, by the name of the field."""

import pytest
import torch
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

from arrol.configs.run import EngineConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.engines.embedded.support import additive, require_supported
from arrol.errors import ModelError

SMALL = {"vocab_size": 24, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}


def test_tested_architectures_pass(any_model):
    require_supported(any_model)


def test_a_soft_cap_is_refused():
    config = Gemma2Config(**SMALL, **HEADS, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    with pytest.raises(ModelError, match=r"final_logit_softcapping = 30\.0"):
        EmbeddedEngine(Gemma2ForCausalLM(config), EngineConfig())


def test_scaled_logits_are_refused():
    heads = {k: v for k, v in HEADS.items() if k != "head_dim"}
    config = CohereConfig(**SMALL, **heads, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    with pytest.raises(ModelError, match=r"logit_scale = 0\.0625"):
        EmbeddedEngine(CohereForCausalLM(config), EngineConfig())


def test_a_sliding_window_is_refused(make_model):
    model = make_model(use_sliding_window=True, sliding_window=8, max_window_layers=1)
    with pytest.raises(ModelError, match="sliding_attention"):
        EmbeddedEngine(model, EngineConfig())


def test_a_sliding_window_without_a_list_of_layers_is_refused(make_model):
    model = make_model("llama")
    model.config.sliding_window = 16
    with pytest.raises(ModelError, match="sliding_attention"):
        require_supported(model)


def test_a_config_without_key_value_heads_is_refused():
    config = GPT2Config(vocab_size=24, n_embd=32, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=None)
    with pytest.raises(ModelError, match="num_key_value_heads"):
        EmbeddedEngine(GPT2LMHeadModel(config), EngineConfig())


def test_foreign_attention_kernels_are_refused(make_model):
    model = make_model()
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ModelError, match="attn_implementation = 'flex_attention'"):
        require_supported(model)


def test_a_head_that_does_more_is_refused_even_when_logits_are_tiny(make_model):
    model = make_model(initializer_range=1e-3)
    forward = model.forward

    def doubled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits * 1.1
        return output

    require_supported(model)
    model.forward = doubled
    with pytest.raises(ModelError, match="output embedding"):
        require_supported(model)


def test_additive_mask():
    mask = additive(torch.tensor([True, False]), torch.float32)
    assert mask.tolist() == [0.0, torch.finfo(torch.float32).min]
