"""Families with sliding windows, linear attention, soft caps or other layouts: exact by the model's own cache."""

import numpy as np
import pytest
import torch
import transformers

from arrol.configs.run import EngineConfig
from arrol.engines.embedded import own_cache
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.engines.embedded.own_cache import OwnCache
from arrol.engines.embedded.support import keeps_every_key
from arrol.errors import ModelError
from arrol.quality.features import FeatureLayout
from arrol.types import FinishReason, RolloutId, SamplingParams
from doubles import PROMPTS, Spy, assert_logprobs_are_the_models, forward, requests_for, tokens_of

LAYOUT = FeatureLayout(("last_hidden", "mean_hidden", "logprobs"), 32)
SMALL = {"vocab_size": 24, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "pad_token_id": 0}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
SMALL |= {"bos_token_id": 1, "eos_token_id": 2}
KINDS = ["sliding_attention", "full_attention"] * 2
FAMILIES = {
    "Mistral": {"sliding_window": 4},
    "Gemma2": {"sliding_window": 4, "layer_types": KINDS, "attn_implementation": "eager",
               "final_logit_softcapping": 0.05},
    "Gemma3": {"sliding_window": 4, "layer_types": KINDS},
    "GptOss": {"sliding_window": 4, "layer_types": KINDS, "num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen3_5": {"layer_types": ["linear_attention", "full_attention"] * 2, "linear_num_value_heads": 4,
                "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    "GPT2": {},
}  # fmt: skip
NAMES = {"Gemma3": "Gemma3Text", "Qwen3_5": "Qwen3_5Text"}


def model_of(family):
    torch.manual_seed(3)
    if family == "GPT2":
        shape = {"vocab_size": 24, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).eval()
    config = getattr(transformers, f"{NAMES.get(family, family)}Config")(**SMALL | FAMILIES[family])
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


def with_vision():
    """A vision-language model, read as text only."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    text = transformers.Gemma3TextConfig(**SMALL | FAMILIES["Gemma3"])
    torch.manual_seed(3)
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    return transformers.Gemma3ForConditionalGeneration(config).eval()


@pytest.fixture(params=[*FAMILIES, "Gemma3 with vision"])
def own_model(request):
    model = with_vision() if request.param == "Gemma3 with vision" else model_of(request.param)
    assert not keeps_every_key(model)
    return model


def engine_of(model, **settings):
    return EmbeddedEngine(model, EngineConfig(**settings), LAYOUT)


def test_greedy_tokens_are_those_of_generate(own_model):
    groups = engine_of(own_model).generate(
        requests_for(PROMPTS, 2), SamplingParams(12, temperature=0, stop_token_ids=(23,)), seed=0
    )
    for prompt, group in zip(PROMPTS, groups, strict=True):
        ids = torch.tensor([prompt])
        expected = own_model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=23,
        )[0, len(prompt) :].tolist()
        assert [list(completion.token_ids) for completion in group] == [expected, expected]


def test_few_rows_stopped_rows_and_later_passes_change_nothing(own_model):
    """Five rows of twelve at a time, with stop tokens and a controller that stops four."""
    params, stops = SamplingParams(16, stop_token_ids=(4, 7)), [RolloutId(1, g, g % 3) for g in range(4)]
    whole = engine_of(own_model).generate(requests_for(PROMPTS, 3), params, seed=5)
    spy = Spy((5,), stops)
    pruned = engine_of(own_model, max_rows=5).generate(requests_for(PROMPTS, 3), params, seed=5, controller=spy)
    assert_logprobs_are_the_models(own_model, PROMPTS, pruned, tolerance=1e-3)
    reasons = [completion.finish_reason for group in pruned for completion in group]
    assert FinishReason.PRUNED in reasons
    for before, after in zip(tokens_of(whole), tokens_of(pruned), strict=True):
        for ours, theirs in zip(before, after, strict=True):
            assert ours[: len(theirs)] == theirs
    for event in spy.events:
        number, length = event.rollout_id.group, spy.probe_tokens[event.probe]
        completion = pruned[number][event.rollout_id.index]
        _, hidden = forward(own_model, PROMPTS[number], completion.token_ids)
        np.testing.assert_allclose(event.features_F[:32], hidden[length - 1], atol=1e-3)


def test_memory_that_runs_out_in_a_step_costs_no_token(own_model, monkeypatch):
    params = SamplingParams(12, stop_token_ids=(4,))
    whole = engine_of(own_model).generate(requests_for(PROMPTS, 3), params, seed=5)
    engine, step, calls = engine_of(own_model), OwnCache.step, []

    def failing(cache, token_S):
        calls.append(len(token_S))
        if len(calls) == 4:
            raise torch.OutOfMemoryError("injected")
        return step(cache, token_S)

    monkeypatch.setattr(OwnCache, "step", failing)
    assert tokens_of(engine.generate(requests_for(PROMPTS, 3), params, seed=5)) == tokens_of(whole)
    assert engine.most_rows < 12


def test_a_model_whose_cache_disagrees_is_refused(monkeypatch):
    monkeypatch.setattr(own_cache, "agrees", lambda model: False)
    with pytest.raises(ModelError) as error:
        engine_of(model_of("Gemma3"))
    assert str(error.value) == (
        "model = Gemma3ForCausalLM: left-padded rows in its own cache differ from a pass without cache; "
        "generate with vLLM (TRL: use_vllm = True)"
    )


def test_a_cache_that_forgets_to_move_rows_is_noticed(monkeypatch):
    monkeypatch.setattr(transformers.DynamicCache, "reorder_cache", lambda cache, rows: None)
    assert not own_cache.agrees(model_of("Gemma3"))
