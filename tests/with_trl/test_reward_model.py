"""A reward model as a reward function gives what the model alone gives for each row."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import trl_host
from arrol.integrations.trl.reward_model import with_reward_models
from trl_host import config, has_digit


@pytest.mark.parametrize("chat", [True, False])
def test_padded_rows_get_the_rewards_of_each_alone(tmp_path, chat):
    folder = trl_host.reward_model(tmp_path / "judge")
    args = config(tmp_path / "run", model_init_kwargs={"device_map": "auto", "dtype": torch.float32})
    judge, same = with_reward_models([folder, has_digit], None, args)
    assert judge.__name__ == "judge"
    assert same is has_digit
    prompts, completions = ["1+1", "2+2"], ["12", "3 4 5 6"]
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    alone = [model(**tokenizer(text, return_tensors="pt")).logits.item() for text in texts]
    if chat:
        prompts = [[{"role": "user", "content": text}] for text in prompts]
        completions = [[{"role": "assistant", "content": text}] for text in completions]
    assert judge(prompts=prompts, completions=completions, answer=["1", "2"]) == pytest.approx(alone, abs=1e-6)
    assert alone[0] != alone[1]
