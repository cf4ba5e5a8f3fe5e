"""One tiny model and one set of prompts for the whole folder."""

import pytest

from integration import tiny


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def prompt_folder(tmp_path_factory):
    return tiny.save_prompts(tmp_path_factory.mktemp("prompts"))


@pytest.fixture
def config(tmp_path, model_folder, prompt_folder):
    """Path of a config whose runs land in ``tmp_path / "runs"``."""
    return tiny.save_config(tmp_path / "tiny.toml", model_folder, prompt_folder, tmp_path / "runs")


@pytest.fixture(scope="session")
def whole(tmp_path_factory, model_folder, prompt_folder):
    """The run of that config that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    config = tiny.save_config(folder / "tiny.toml", model_folder, prompt_folder, folder / "runs")
    assert tiny.finish(["train", config], folder / "log") == 0, (folder / "log").read_text()
    return folder / "runs" / "tiny"
