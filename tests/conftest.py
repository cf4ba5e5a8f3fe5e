"""Small random models and a character tokenizer, built in the test; nothing is downloaded."""

import socket

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from arrol.hub import OFFLINE_KEYS, hub_answers
from arrol.training.policy import character_tokenizer

torch.set_num_threads(1)

ARCHITECTURES = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}


def _make_model(name="qwen3", *, seed=0, kv_heads=2, **changes):
    """Two layers, 4 query heads, weights large enough that distributions are far from uniform."""
    settings = {
        "vocab_size": 24,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": kv_heads,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "initializer_range": 0.25,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    config_class, model_class = ARCHITECTURES[name]
    torch.manual_seed(seed)
    return model_class(config_class(**{**settings, **changes})).eval()


@pytest.fixture(scope="session")
def make_model():
    """``make_model("qwen3" | "llama", seed=0, kv_heads=2, **config)``; kv_heads 4 is plain multi-head attention."""
    return _make_model


@pytest.fixture(params=[("qwen3", 4), ("qwen3", 2), ("llama", 4), ("llama", 2)], ids=lambda p: f"{p[0]}-kv{p[1]}")
def any_model(request):
    """Each tested architecture, with and without grouped-query attention."""
    name, kv_heads = request.param
    return _make_model(name, kv_heads=kv_heads)


@pytest.fixture
def char_tokenizer():
    """One id per character, ``<pad>`` 0, ``<eos>`` 1, ``<unk>`` 2."""
    return character_tokenizer("0123456789+-*/=.? ")


@pytest.fixture
def silent_hub(monkeypatch, tmp_path):
    """Address of a hub that refuses connections, with an empty cache at ``tmp_path``; no switch says offline."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    for key in (*OFFLINE_KEYS, "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    yield address
    hub_answers.cache_clear()
