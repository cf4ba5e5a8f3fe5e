"""A real pretrained model in the embedded engine: log-probabilities and features are the model's own."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from arrol.configs.run import EngineConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.quality.features import FeatureLayout
from arrol.types import SamplingParams
from doubles import Spy, forward, requests_for
from smollm2 import chat_rows, smollm2_folder

PROBE = 4


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def prompts():
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder())
    chats = [row["prompt"] for row in chat_rows(2)]
    return [tuple(tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]) for chat in chats]


@pytest.mark.parametrize(("dtype", "rows", "tolerance"), [("float32", 9, 1e-3), ("bfloat16", 2, 0.2)])
def test_logprobs_and_features_are_the_models(model, prompts, dtype, rows, tolerance):
    """float32 on flat tokens with 18 rows; bfloat16 through transformers, within its noise of the float32 model."""
    spy = Spy((PROBE,))
    layout = FeatureLayout(("last_hidden",), model.config.hidden_size)
    engine = EmbeddedEngine(model, EngineConfig(dtype=dtype), layout)
    groups = engine.generate(requests_for(prompts, rows), SamplingParams(8), seed=1, controller=spy)
    scale = 0.0
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group[:3]:
            logprobs, hidden = forward(model, prompt, completion.token_ids)
            np.testing.assert_allclose(completion.sampler_logprobs_T, logprobs, atol=tolerance)
            scale = max(scale, float(np.abs(hidden).max()))
            if PROBE in completion.features_at:
                near = tolerance * scale
                np.testing.assert_allclose(completion.features_at[PROBE], hidden[PROBE - 1], atol=near)
    assert spy.events
