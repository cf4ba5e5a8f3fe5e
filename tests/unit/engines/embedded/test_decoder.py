"""The flat decoder is the model, with its gradient; whatever it cannot be is left to the model's own forward pass."""

import pytest
import torch

from arrol.engines.embedded.decoder import WIDE, causal, flat_decoder, product, wide_product


def hidden_of(model, ids):
    flat = flat_decoder(model)
    return flat(ids, torch.arange(len(ids)), causal(flat.scaling))


def test_hidden_states_and_gradients_are_the_models(any_model):
    with torch.no_grad():
        for weight in any_model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    ids = torch.tensor([5, 3, 9, 9, 0, 7, 2])
    direction = torch.randn(7, 32, generator=torch.Generator().manual_seed(1))
    results = []
    for hidden in (hidden_of(any_model, ids), any_model.base_model(input_ids=ids[None]).last_hidden_state[0]):
        any_model.zero_grad()
        (hidden * direction).sum().backward()
        results.append((hidden.detach(), {name: w.grad for name, w in any_model.base_model.named_parameters()}))
    (ours, our_gradient), (theirs, their_gradient) = results
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for name, gradient in their_gradient.items():
        torch.testing.assert_close(our_gradient[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_biases_and_long_positions_are_kept(make_model):
    model = make_model(attention_bias=True, rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4})
    with torch.no_grad():
        for layer in model.base_model.layers:
            layer.self_attn.k_proj.bias.uniform_(-1, 1)
    ids, places = torch.tensor([5, 3, 9]), torch.tensor([100, 101, 102])
    flat = flat_decoder(model)
    whole = model.base_model(input_ids=ids[None], position_ids=places[None]).last_hidden_state[0]
    torch.testing.assert_close(flat(ids, places, causal(flat.scaling)), whole, atol=1e-5, rtol=1e-5)


def hooked(model):
    model.base_model.layers[0].register_forward_hook(lambda *_: None)
    return model


def replaced(model):
    """A layer that looks right and computes something else."""
    inner = model.base_model.layers[1].mlp

    class Twice(type(inner)):
        def forward(self, x):
            return 2 * super().forward(x)

    inner.__class__ = Twice
    return model


def checkpointing(model):
    model.gradient_checkpointing_enable()
    return model


def of_another_class(model):
    class Other(type(model.base_model)):
        pass

    model.base_model.__class__ = Other
    return model


@pytest.mark.parametrize(
    "change", [hooked, replaced, checkpointing, of_another_class, lambda model: model.bfloat16()], ids=str
)
def test_other_models_are_left_to_themselves(make_model, change):
    assert flat_decoder(make_model()) is not None
    assert flat_decoder(change(make_model())) is None


def test_another_activation_is_left_to_the_model(make_model):
    assert flat_decoder(make_model(hidden_act="gelu")) is None


def test_the_hook_of_gradient_checkpointing_is_run(make_model):
    """transformers leaves it on the embedding when a trainer asks for gradient checkpointing, TRL's default."""
    model, ids = make_model(), torch.tensor([5, 3, 9])
    plain = hidden_of(model, ids)
    model.enable_input_require_grads()
    assert torch.equal(hidden_of(model, ids), plain)
    model.base_model.embed_tokens.register_forward_hook(lambda module, inputs, output: 2 * output)
    whole = model.base_model(input_ids=ids[None]).last_hidden_state[0]
    torch.testing.assert_close(hidden_of(model, ids), whole, atol=1e-5, rtol=1e-5)


def test_the_check_leaves_the_model_as_it_was(make_model):
    model = make_model(attention_dropout=0.5).train()
    assert flat_decoder(model) is not None
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())


def test_sliding_windows_are_left_to_the_model(make_model):
    assert flat_decoder(make_model(use_sliding_window=True, sliding_window=16, max_window_layers=0)) is None


@pytest.mark.parametrize("rows", [1, 16, 40, 128, 200])
@pytest.mark.parametrize("bias", [False, True])
def test_products_of_few_rows_are_the_modules(rows, bias):
    linear, values = torch.nn.Linear(12, 20, bias=bias), torch.randn(rows, 12)
    with torch.inference_mode():
        torch.testing.assert_close(product(linear, values), linear(values))
    linear.register_forward_hook(lambda module, given, output: output + 1)
    with torch.inference_mode():
        torch.testing.assert_close(product(linear, values), linear(values))


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("outputs", [20, WIDE + 3])
def test_wide_products_are_contiguous(rows, outputs):
    linear, values = torch.nn.Linear(12, outputs, bias=False), torch.randn(rows, 12)
    with torch.inference_mode():
        found = wide_product(linear, values)
        torch.testing.assert_close(found, linear(values))
    assert found.is_contiguous()
