"""Data sets by their usual names, and their columns.

Case, ``-``, ``_``, blanks and apostrophes do not matter: ``MATH-500``, ``math_500`` and ``math500`` are one. A path of
the same name goes first. ``docs/data.md`` has the table for readers.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from arrol.errors import ConfigError


class Preset(NamedTuple):
    """A data set known by its usual name."""

    hub: str
    """``owner/name`` or ``owner/name:subset``."""
    prompt_column: str
    """Dots reach inside; parts joined by ``+`` become one question."""
    answer_column: str = "answer"
    answer_format: str = "plain"
    only_split: str | None = None
    """The only split there is; None when it has train and test."""
    deduplicate: bool = False


PRESETS = {
    "gsm8k": Preset("openai/gsm8k:main", "question", answer_format="gsm8k"),
    "svamp": Preset("ChilleD/SVAMP", "Body+Question", "Answer"),
    "math500": Preset("HuggingFaceH4/MATH-500", "problem", only_split="test"),
    "minerva_math": Preset("math-ai/minervamath", "question", only_split="test"),
    # Open-ended, text only, mathematics, English, competitions: the 674 problems that papers evaluate on.
    "olympiadbench": Preset(
        "Hothan/OlympiadBench:OE_TO_maths_en_COMP", "context+question", "final_answer", only_split="train"
    ),
    "amc23": Preset("math-ai/amc23", "question", only_split="test"),
    "aime24": Preset("HuggingFaceH4/aime_2024", "problem", only_split="train"),
    "aime25": Preset("math-ai/aime25", "problem", only_split="test"),
    # Its rows repeat each problem many times.
    "dapo-math-17k": Preset(
        "BytedTsinghua-SIA/DAPO-Math-17k", "prompt", "reward_model.ground_truth", only_split="train", deduplicate=True
    ),
}

_OTHER_NAMES = {
    "aime2024": "aime24",
    "aime2025": "aime25",
    "amc2023": "amc23",
    "minerva": "minerva_math",
    "minervamath": "minerva_math",
    "olympiad": "olympiadbench",
    "dapomath17k": "dapo-math-17k",
}


def preset_of(source: str) -> Preset | None:
    """The preset of a name; None for a path that exists and for anything unknown."""
    if "/" in source or Path(source).exists():
        return None
    return PRESETS.get(_NAMES.get(_folded(source), ""))


def preset_named(name: str) -> Preset:
    """The preset of a name, also where a path has that name; ConfigError for an unknown one."""
    preset = PRESETS.get(_NAMES.get(_folded(name), ""))
    if preset is None:
        raise ConfigError(f"preset: {name!r} is unknown; choose from {', '.join(PRESETS)}")
    return preset


def _folded(name: str) -> str:
    return "".join(character for character in name.lower() if character not in "-_ '")


_NAMES = {_folded(name): name for name in PRESETS} | _OTHER_NAMES
