"""The names people type, and columns that exist in the sets as published."""

import pytest

from arrol.errors import ConfigError
from arrol.tasks.columns import ANSWER_FORMATS
from arrol.tasks.presets import PRESETS, preset_named, preset_of


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        *((name, name) for name in PRESETS),
        *((name.upper(), name) for name in PRESETS),
        ("MATH-500", "math500"),
        ("math_500", "math500"),
        ("Minerva Math", "minerva_math"),
        ("minervamath", "minerva_math"),
        ("minerva", "minerva_math"),
        ("Olympiad-Bench", "olympiadbench"),
        ("olympiad", "olympiadbench"),
        ("AMC'23", "amc23"),
        ("amc_2023", "amc23"),
        ("AIME24", "aime24"),
        ("aime_2024", "aime24"),
        ("AIME-2025", "aime25"),
        ("GSM-8K", "gsm8k"),
        ("dapo_math_17k", "dapo-math-17k"),
    ],
)
def test_usual_names(name, preset):
    assert preset_of(name) is PRESETS[preset]


@pytest.mark.parametrize("name", ["math", "aime", "", "a/gsm8k", "openai/gsm8k", "gsm8k.jsonl", "./gsm8k", "gsm"])
def test_other_names_are_no_preset(name):
    assert preset_of(name) is None


def test_a_path_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "svamp").mkdir()
    assert preset_of("svamp") is None
    assert preset_of("SVAMP-") is not None


def test_a_preset_may_be_named_beside_a_path_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "svamp").mkdir()
    assert preset_named("SVAMP") is PRESETS["svamp"]
    with pytest.raises(ConfigError, match="preset: 'swamp' is unknown; choose from gsm8k, svamp"):
        preset_named("swamp")


def test_every_preset_names_a_hub_and_a_format():
    for preset in PRESETS.values():
        assert preset.hub.partition(":")[0].count("/") == 1
        assert preset.answer_format in ANSWER_FORMATS
