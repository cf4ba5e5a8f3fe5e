"""The shipped model is found by its name in any folder, and a path of that name has priority."""

from pathlib import Path

import pytest

from arrol.configs.base import validate
from arrol.configs.run import RunConfig
from arrol.configs.sft import SftConfig
from arrol.configs.shipped import MODEL_NAME, SHIPPED, found_model

TASK = {"name": "arithmetic"}


@pytest.mark.parametrize("kind", [RunConfig, SftConfig])
def test_a_config_finds_it_in_any_folder(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = validate(kind, {"model": MODEL_NAME, "task": TASK}).model
    assert found == str(SHIPPED / MODEL_NAME)
    assert (Path(found) / "config.json").is_file()


def test_a_path_of_that_name_and_other_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert found_model("owner/arithmetic-base") == "owner/arithmetic-base"
    Path(MODEL_NAME).mkdir()
    assert found_model(MODEL_NAME) == MODEL_NAME
    assert validate(SftConfig, {"task": TASK}).model is None
