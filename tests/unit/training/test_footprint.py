"""The least memory of a plan: the formula, what it may not count, and the line that refuses."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, Qwen3Config

from arrol.configs.lora import LoraConfig
from arrol.engines.embedded.cache import RowCache
from arrol.errors import ConfigError
from arrol.training import footprint as module
from arrol.training.footprint import Cause, Plan, adapter_weights, footprint, longest_row, require_room
from arrol.training.model_shapes import wanted_shapes

CPU = torch.device("cpu")
SHAPE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 100,
}
SMALL = LlamaConfig(**SHAPE)
KEPT = 2 * 3 * 2 * 8
"""Keys and values of a token: three layers, two heads of size 8."""


def row_of(config):
    return footprint(config, 0, Plan(row_tokens=10))[0]["row"] - 4 * config.vocab_size


def test_the_formula_by_hand():
    plan = Plan(
        trained=10, held=8, at_update=12, copies=6, row_tokens=40, row_bytes=2, update_tokens=30, predicted_tokens=20,
        update_bytes=2, results=77,
    )  # fmt: skip
    generation, gradient, optimizer = footprint(SMALL, 1000, plan)
    assert generation == {"model": 4080, "copies": 6000, "row": 2 * 40 * KEPT + 200, "results": 77}
    assert gradient == {"model": 4080, "copies": 6000, "update": 2 * 30 * 3 * (32 + 64), "logits": 8 * 20 * 50}
    assert optimizer == {"model": 4120, "copies": 6000}
    assert footprint(SMALL, 1000, plan._replace(recomputes=True))[1]["update"] == 2 * 30 * 3 * 32


def test_logits_come_in_chunks():
    most = footprint(SMALL, 0, Plan(predicted_tokens=10**12))[1]["logits"]
    assert most == 8 * 2**24


def test_a_row_is_no_more_than_the_engines_cache_holds():
    cache = RowCache(Qwen3Config(**SHAPE, head_dim=16), device=CPU, dtype=torch.float32)
    cache.reserve(1, 16)
    assert footprint(Qwen3Config(**SHAPE, head_dim=16), 0, Plan(row_tokens=16))[0]["row"] - 200 == cache.num_bytes


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        (SMALL, 3),
        (AutoConfig.for_model("gemma3_text", **SHAPE, layer_types=["sliding_attention"] * 2 + ["full_attention"]), 1),
        (AutoConfig.for_model("mistral", **SHAPE, sliding_window=8), 0),
        (AutoConfig.for_model("jamba", **SHAPE), 0),
        (AutoConfig.for_model("mamba", vocab_size=50, num_hidden_layers=3), 0),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_layers_count_only_where_they_keep_every_token(config, layers):
    size = getattr(config, "head_dim", None) or 8
    assert row_of(config) == 4 * 10 * 2 * layers * 2 * size


def test_experts_do_not_count_among_the_activations():
    config = AutoConfig.for_model("mixtral", **SHAPE)
    assert footprint(config, 0, Plan(update_tokens=10))[1]["update"] == 4 * 10 * 3 * 32


def test_a_row_ends_at_the_models_positions():
    assert longest_row(SMALL, 20) == 21
    assert longest_row(SMALL, 10**9) == 100
    assert longest_row(AutoConfig.for_model("bloom"), 10**9) == 10**9 + 1


@pytest.mark.parametrize("targets", [("all-linear",), ("q_proj", "down_proj")])
def test_adapters_are_those_of_peft(targets):
    peft = pytest.importorskip("peft")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(SMALL)
        names = "all-linear" if targets == ("all-linear",) else list(targets)
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=names, task_type="CAUSAL_LM"))
    learn = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert adapter_weights(wanted_shapes(SMALL), LoraConfig(r=4, target_modules=targets), SMALL) == learn


CAUSES = {
    "model": Cause("model", "m", "its weights", "take a smaller model"),
    "row": Cause("limit", 100, "the keys of one rollout", scales=True),
    "results": Cause("group_size", 8, "completions", ", or more memory", scales=True, on_host=True),
}
GIB = 2**30


def refused(phases, device=CPU, **given):
    with pytest.raises(ConfigError) as caught:
        require_room(phases, CAUSES, device, **given)
    return str(caught.value)


def test_the_largest_part_of_the_largest_phase_is_named():
    phases = [{"model": GIB, "row": 2 * GIB}, {"model": GIB, "row": GIB}]
    require_room(phases, CAUSES, CPU, room=3 * GIB)
    assert refused(phases, room=2 * GIB) == (
        "limit = 100: the keys of one rollout take 2 GiB or more, the plan as a whole 3 GiB, and 2 GiB can be "
        "allocated; lower it to 50 at most"
    )
    assert refused([{"model": 2 * GIB, "row": GIB}], room=GIB).endswith("1 GiB can be allocated; take a smaller model")
    assert refused([{"results": 3 * GIB}], room=0).endswith("; lower it, or more memory")


def test_a_gpu_holds_all_but_the_results(monkeypatch):
    monkeypatch.setattr(module, "free_bytes", lambda device: 2 * GIB)
    monkeypatch.setattr(module, "host_most_bytes", lambda: GIB)
    gpu = torch.device("cuda")
    require_room([{"model": 2 * GIB, "results": GIB}], CAUSES, gpu)
    assert refused([{"model": 3 * GIB, "results": GIB}], gpu).startswith("model = 'm': its weights take 3 GiB or more")
    assert refused([{"model": GIB, "results": 2 * GIB}], gpu).startswith("group_size = 8: completions take 2 GiB")
    assert refused([{"model": GIB, "results": GIB}]).startswith("model = 'm'"), "on a CPU they share the memory"
