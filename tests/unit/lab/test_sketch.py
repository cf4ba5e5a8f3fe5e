"""Sketches of gradients of real (tiny) models."""

import numpy as np
import pytest
import torch

from arrol.errors import ConfigError
from arrol.lab.sketch import GradientSketch


def whole_gradient(model, prompt, completion):
    ids = torch.tensor([[*prompt, *completion]])
    logprob = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    picked = logprob[torch.arange(len(prompt) - 1, ids.shape[1] - 1), torch.tensor(completion)]
    gradients = torch.autograd.grad(picked.sum(), list(model.parameters()))
    return torch.cat([gradient.reshape(-1) for gradient in gradients]).double().numpy()


def test_inner_products_of_sketches_are_those_of_the_gradients(make_model):
    model = make_model()
    pairs = [((5, 6, 7), (8, 9, 10)), ((5, 6, 7), (8, 9, 11, 12)), ((3,), (4, 5))]
    exact = np.array([whole_gradient(model, *pair) for pair in pairs])
    products = []
    for seed in range(40):
        sketch = GradientSketch(model, 256, seed=seed)
        rows, norms = zip(*(sketch(*pair) for pair in pairs), strict=True)
        products.append(np.array(rows, float) @ np.array(rows, float).T)
        np.testing.assert_allclose(norms, (exact**2).sum(1), rtol=1e-4)
    scale = np.sqrt(np.outer((exact**2).sum(1), (exact**2).sum(1)))
    np.testing.assert_allclose(np.mean(products, 0) / scale, exact @ exact.T / scale, atol=0.05)
    assert np.std(products, 0).max() / scale.max() < 3 * np.sqrt(2 / 256)


def test_only_the_named_parameters_count(make_model):
    model = make_model()
    some = GradientSketch(model, 16, only=("*layers.0.*",))
    assert some.num_parameters == sum(p.numel() for n, p in model.named_parameters() if "layers.0." in n)
    with pytest.raises(ConfigError, match=r"parameters = \['x'\]: no parameter of the model matches"):
        GradientSketch(model, 16, only=("x",))
