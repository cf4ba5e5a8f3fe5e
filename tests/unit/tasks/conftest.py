"""A character tokenizer, with the chat template that Hugging Face tokenizers may have."""

import pytest


class CharacterTokenizer:
    """One id per character; id 0 ends a text, id 1 begins one when special tokens are asked for."""

    eos_token_id = 0

    def __init__(self, alphabet=None, chat_template=None):
        self.alphabet = alphabet
        self.chat_template = chat_template

    def encode(self, text, /, *, add_special_tokens=True):
        known = [c for c in text if self.alphabet is None or c in self.alphabet]
        return [1] * add_special_tokens + [ord(c) + 2 for c in known]

    def decode(self, token_ids, /, *, skip_special_tokens=False):
        return "".join(chr(i - 2) for i in token_ids if i > 1)

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt, **arguments):
        assert not tokenize
        assert add_generation_prompt
        told = "".join(f"[{name}={value}]" for name, value in arguments.items())
        return "".join(f"<{m['role']}>{m['content']}</>" for m in messages) + told + "<assistant>"


@pytest.fixture
def tokenizer():
    return CharacterTokenizer()


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test asks the hub; ``silent_hub`` takes this back."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
