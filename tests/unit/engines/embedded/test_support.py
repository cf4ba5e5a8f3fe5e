"""Which cache a model gets; a model whose logits the engine would compute wrongly is refused."""

import pytest
import torch
from transformers import CohereConfig, CohereForCausalLM

from arrol.engines.embedded.support import additive, keeps_every_key, logits_of, require_plain_head
from arrol.errors import ModelError

SMALL = {"vocab_size": 24, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}


def test_plain_architectures_keep_every_key(any_model):
    assert keeps_every_key(any_model)


@pytest.mark.parametrize("change", [{"sliding_window": 16}, {"_attn_implementation": "flash_attention_2"}], ids=str)
def test_other_attention_needs_the_models_own_cache(make_model, change):
    model = make_model("llama")
    for name, value in change.items():
        setattr(model.config, name, value)
    assert not keeps_every_key(model)


def test_a_factor_of_the_logits_is_kept():
    heads = {k: v for k, v in HEADS.items() if k != "head_dim"}
    model = CohereForCausalLM(CohereConfig(**SMALL, **heads, bos_token_id=None, eos_token_id=None, pad_token_id=None))
    ids = torch.arange(5)[None]
    with torch.inference_mode():
        ours = logits_of(model, model.base_model(input_ids=ids).last_hidden_state)
        torch.testing.assert_close(ours, model(input_ids=ids).logits)


def test_a_head_that_does_more_is_refused_even_when_logits_are_tiny(make_model):
    model = make_model(initializer_range=1e-3)
    forward = model.forward

    def doubled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits * 1.1
        return output

    require_plain_head(model)
    model.forward = doubled
    with pytest.raises(ModelError, match="output embedding"):
        require_plain_head(model)


def test_additive_mask():
    mask = additive(torch.tensor([True, False]), torch.float32)
    assert mask.tolist() == [0.0, torch.finfo(torch.float32).min]
