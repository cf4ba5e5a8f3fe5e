"""The folder that vLLM loads: what is in it, and that readers of the old file are not disturbed."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

pytest.importorskip("vllm.sampling_params")

from arrol.configs.run import VllmEngineConfig
from arrol.engines.vllm.weights import WEIGHTS, PolicyFolder
from arrol.errors import ModelError

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM warns of itself


@pytest.fixture
def folder(make_model):
    made = []

    def make(config=VllmEngineConfig(), **changes):
        model = make_model(**changes)
        made.append(PolicyFolder(model, config))
        made[-1].write()
        return model, made[-1]

    yield make
    for one in made:
        one.close()


def test_heads_are_widened_to_a_size_the_kernel_knows(folder):
    _, written = folder(head_dim=8)
    assert AutoConfig.from_pretrained(written.path).head_dim == 32
    assert load_file(written.path / WEIGHTS)["model.layers.0.self_attn.q_norm.weight"].shape == (32,)


def test_heads_that_fit_are_left_alone(folder):
    model, written = folder(head_dim=32)
    tensors = load_file(written.path / WEIGHTS)
    assert all(torch.equal(tensors[name], value) for name, value in model.named_parameters())


def test_tied_embeddings_are_written_twice_since_vllm_reloads_them_apart(folder):
    model, written = folder(head_dim=32, tie_word_embeddings=True)
    tensors = load_file(written.path / WEIGHTS)
    assert torch.equal(tensors["lm_head.weight"], model.get_input_embeddings().weight)
    assert AutoConfig.from_pretrained(written.path).tie_word_embeddings is False
    assert model.config.tie_word_embeddings is True


def test_writing_again_replaces_the_file_and_not_its_readers(folder):
    model, written = folder(head_dim=32)
    old = load_file(written.path / WEIGHTS)["model.norm.weight"]
    before = old.clone()
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
    written.write()
    assert torch.equal(old, before)
    assert torch.equal(load_file(written.path / WEIGHTS)["model.norm.weight"], 2 * before)


def test_the_file_has_the_engines_precision(folder):
    _, written = folder(VllmEngineConfig(dtype="bfloat16"), head_dim=32)
    assert {tensor.dtype for tensor in load_file(written.path / WEIGHTS).values()} == {torch.bfloat16}


def test_heads_larger_than_any_are_refused(make_model):
    with pytest.raises(ModelError, match=r"head_dim = 514"):
        PolicyFolder(make_model(head_dim=514), VllmEngineConfig())


def test_closing_removes_the_folder(folder):
    _, written = folder()
    written.close()
    assert not written.path.exists()
