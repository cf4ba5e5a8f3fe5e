"""Layers whose activations are computed again: who has such layers, and that nothing stays changed."""

import pytest
import torch

from arrol.errors import ConfigError
from arrol.training.recompute import recomputed_layers, require_layers


def gradient(model, *, enabled, seed=3):
    """Of a loss under dropout; backward comes behind the context."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    with recomputed_layers(model, enabled=enabled):
        loss = model(input_ids=torch.tensor([[3, 5, 7, 9]])).logits.square().mean()
    loss.backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


def test_the_gradient_is_the_same_also_under_dropout(make_model):
    for model in (make_model(), make_model("llama", attention_dropout=0.3).train()):
        assert torch.equal(gradient(model, enabled=True), gradient(model, enabled=False))
    assert not torch.equal(gradient(model, enabled=True), gradient(model, enabled=True, seed=4))


def test_each_layer_runs_once_more(make_model):
    model, calls = make_model(), []
    model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    gradient(model, enabled=True)
    assert len(calls) == 2
    gradient(model, enabled=False)
    assert len(calls) == 3


def test_an_error_inside_leaves_the_layers_as_they_were(make_model):
    model = make_model()
    with pytest.raises(IndexError), recomputed_layers(model):
        model(input_ids=torch.tensor([[999]]))
    assert "forward" not in vars(model.model.layers[0])


def test_a_model_without_marked_layers_is_refused():
    with pytest.raises(ConfigError, match=r"^training.x = true: Linear has no layers that transformers can compute"):
        require_layers(torch.nn.Linear(2, 2), "training.x")
