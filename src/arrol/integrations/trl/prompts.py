"""Prompts to token ids exactly as TRL does, by the tokenizer's public calls."""

from __future__ import annotations

from typing import Any

from trl import is_conversational

from arrol.errors import ConfigError


def tokenized_prompts(prompts: list[Any], trainer: Any) -> list[list[int]]:
    """One list of ids per prompt, chat messages or plain text. ConfigError for images."""
    tokenizer = trainer.processing_class
    if not is_conversational({"prompt": prompts[0]}):
        return tokenizer(text=prompts)["input_ids"]
    if any(not isinstance(message["content"], str) for prompt in prompts for message in prompt):
        raise ConfigError("prompt = content blocks: only text can be pruned; set rule = 'never' for images")
    return tokenizer.apply_chat_template(
        conversation=prompts,
        chat_template=trainer.chat_template,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        **trainer.chat_template_kwargs,
    )["input_ids"]
