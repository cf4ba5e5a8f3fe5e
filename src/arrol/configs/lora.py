"""LoRA: low-rank adapters that train in place of the model's weights."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from arrol.configs.base import StrictModel

ALL_LINEAR = "all-linear"
"""Every linear layer but the output embedding, as in peft."""


class LoraConfig(StrictModel):
    """Adapters of peft; needs the extra ``lora``."""

    r: int = Field(16, ge=1, le=65536)
    """Rank of the two small matrices beside each layer, 1 to 65536."""
    alpha: float = Field(32.0, gt=0)
    """Their product counts alpha / r times, above 0."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout in front of the adapters, in [0, 1); for arrol sft alone."""
    target_modules: tuple[str, ...] = Field((ALL_LINEAR,), min_length=1)
    """Names of linear layers such as q_proj, v_proj; all-linear takes every one but the output embedding."""

    @field_validator("target_modules")
    @classmethod
    def _names_of_layers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
                raise ValueError(
                    f"lora.target_modules = {list(value)}: {name!r} is no name of a layer; give names such as q_proj, "
                    f"or {ALL_LINEAR}"
                )
        if ALL_LINEAR in value and len(value) > 1:
            raise ValueError(f"lora.target_modules = {list(value)}: {ALL_LINEAR} takes all; give it alone")
        return value
