"""Keeps tokens and passwords of a host's command and config out of its records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

NAMES = frozenset(
    {"token", "hub_token", "push_to_hub_token", "hf_token", "use_auth_token", "auth_token", "access_token"}
    | {"api_key", "wandb_api_key", "secret", "password"}
)
"""Last part of a field's or flag's name whose value is not recorded."""
LOOK = re.compile(r"\b(hf_|sk-|ghp_)[A-Za-z0-9_-]{16,}")
"""What a token looks like under any name."""
HIDDEN = "***"


def hidden_values(value: Any) -> Any:
    """JSON value of a config without secrets; what is no JSON value becomes its text."""
    if isinstance(value, Mapping):
        return {str(k): HIDDEN if v and _is_secret(str(k)) else hidden_values(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [hidden_values(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return hidden_text(str(value))


def hidden_words(command: Sequence[str]) -> list[str]:
    """Words of a command without secrets: ``--hub_token X``, ``--hub_token=X`` and ``trainer.token=X``."""
    found: list[str] = []
    for word in map(str, command):
        name, equals, value = word.partition("=")
        if found and _is_secret(found[-1]) and found[-1].startswith("-") and not word.startswith("-"):
            found.append(HIDDEN)
        elif equals and value and _is_secret(name):
            found.append(f"{name}={HIDDEN}")
        else:
            found.append(hidden_text(word))
    return found


def hidden_text(text: str) -> str:
    """A text without what looks like a token."""
    return LOOK.sub(HIDDEN, text)


def _is_secret(name: str) -> bool:
    return re.split(r"[.+]", name.lstrip("-+").lower().replace("-", "_"))[-1] in NAMES
