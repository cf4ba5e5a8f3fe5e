"""Wider heads compute the same function: Hugging Face's own forward pass of both models says so."""

import copy
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from arrol.engines.vllm.padding import head_size_of, padded_config, padded_size, padded_weights
from arrol.errors import ModelError

each_kind = pytest.mark.parametrize("name", ["qwen3", "llama"])
SIZES = [(8, 16), (24, 32), (40, 64)]


def shaken(model):
    """No parameter at its initial value: norms are not ones, biases not zeros."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            noise = torch.rand(parameter.shape, generator=generator)
            parameter.data = noise - 0.5 if name.endswith("bias") else noise + 0.5
    return model


def widened(model, head_size):
    wider = AutoModelForCausalLM.from_config(padded_config(model.config, head_size)).eval()
    weights = dict(padded_weights(model.named_parameters(), model.config, head_size))
    missing = wider.load_state_dict(weights, strict=False).missing_keys
    assert missing == (["lm_head.weight"] if model.config.tie_word_embeddings else [])
    return wider


@torch.no_grad()
def outputs(model, ids):
    return model.model(input_ids=ids).last_hidden_state, model(input_ids=ids).logits


@each_kind
@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("changes", [{}, {"attention_bias": True, "tie_word_embeddings": True}], ids=["plain", "more"])
def test_the_function_stays_the_same(make_model, name, old, new, kv_heads, changes):
    model = shaken(make_model(name, head_dim=old, kv_heads=kv_heads, **changes))
    wider = widened(model, new)
    assert head_size_of(wider.config) == new
    ids = torch.randint(0, 24, (2, 100), generator=torch.Generator().manual_seed(0))
    for one, other in zip(outputs(model, ids), outputs(wider, ids), strict=True):
        assert one.std() > 0.1
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@each_kind
def test_a_base_that_is_not_raised_would_be_seen(make_model, name):
    model = shaken(make_model(name, head_dim=24))
    wider = widened(model, 32)
    wrong = copy.deepcopy(model.config)
    wrong.head_dim = 32
    other = AutoModelForCausalLM.from_config(wrong).eval()
    other.load_state_dict(wider.state_dict())
    ids = torch.randint(0, 24, (1, 100), generator=torch.Generator().manual_seed(0))
    assert (outputs(model, ids)[1] - outputs(other, ids)[1]).abs().max() > 0.1


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_names_and_types_stay_and_shapes_are_those_of_the_wider_model(make_model, name, dtype):
    model = make_model(name, head_dim=24, attention_bias=True).to(dtype)
    padded = dict(padded_weights(model.named_parameters(), model.config, 32))
    wider = AutoModelForCausalLM.from_config(padded_config(model.config, 32))
    assert {n: t.shape for n, t in padded.items()} == {n: t.shape for n, t in wider.named_parameters()}
    assert {t.dtype for t in padded.values()} == {dtype}


@each_kind
def test_the_old_model_and_its_config_are_left_alone(make_model, name):
    model = make_model(name, head_dim=24)
    config, weights = model.config.to_dict(), copy.deepcopy(model.state_dict())
    dict(padded_weights(model.named_parameters(), model.config, 32))
    padded_config(model.config, 32)
    assert model.config.to_dict() == config
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())


@each_kind
def test_the_same_size_changes_nothing(make_model, name):
    model = make_model(name, head_dim=24)
    for key, tensor in padded_weights(model.named_parameters(), model.config, 24):
        assert torch.equal(tensor, model.get_parameter(key))
    assert padded_config(model.config, 24).to_dict() == model.config.to_dict()


def test_a_head_size_that_is_not_written_down_is_the_width_by_the_heads():
    assert head_size_of(SimpleNamespace(head_dim=None, hidden_size=96, num_attention_heads=4)) == 24
    assert head_size_of(SimpleNamespace(hidden_size=96, num_attention_heads=4)) == 24
    assert head_size_of(SimpleNamespace(head_dim=40, hidden_size=96, num_attention_heads=4)) == 40


@pytest.mark.parametrize(("old", "new"), [(1, 32), (32, 32), (33, 64), (40, 64), (128, 128)])
def test_the_smallest_size_that_is_enough_is_taken(old, new):
    assert padded_size(old, (128, 64, 32)) == new


@pytest.mark.parametrize("supported", [(32, 64), ()])
def test_heads_that_no_kernel_holds_are_refused(supported):
    with pytest.raises(
        ModelError, match=r"head_dim = 80: no attention kernel of vLLM supports it here; use another engine"
    ):
        padded_size(80, supported)


@pytest.mark.parametrize(
    ("changes", "new", "message"),
    [
        ({"model_type": "gpt2"}, 32, "model_type = 'gpt2': .* use one of qwen3, llama"),
        ({}, 16, "head_size = 16: the model's heads have 24; give an even number from 24"),
        ({}, 33, "head_size = 33: the model's heads have 24; give an even number from 24"),
        ({"head_dim": 25}, 32, "heads of 25 cannot be widened"),
        (
            {"rope": {"rope_type": "yarn", "factor": 2.0}},
            32,
            "rope_type = 'yarn': heads with these frequencies cannot be widened",
        ),
        ({"rope": {"rope_type": "linear", "factor": 2.0}}, 32, "rope_type = 'linear': .*; use type 'default'"),
    ],
)
def test_what_cannot_be_widened_is_refused(changes, new, message):
    rope = {"rope_theta": 10000.0, **changes.pop("rope", {})}
    config = SimpleNamespace(**{"model_type": "llama", "head_dim": 24, "rope_parameters": rope, **changes})
    with pytest.raises(ModelError, match=message):
        padded_config(config, new)
