"""Real engines on the CPU, of a random model; ``make test-vllm`` runs them in an environment of their own."""

import contextlib
from pathlib import Path

import pytest

import vllm_host
from document_table import TABLE
from documents import Runner, units, workplace

collect_ignore_glob = [] if vllm_host.has_vllm() else ["test_*.py"]


if vllm_host.is_second_runner():
    vllm_host.allow_second_runner()


def pytest_configure(config):
    """vLLM and what it loads warn of their own future; our own warnings are errors here as everywhere."""
    config.addinivalue_line("filterwarnings", "default")
    config.addinivalue_line("filterwarnings", "error:::arrol")


def pytest_collection_modifyitems(items):
    """Drafts come last: they load numba, and then vLLM 0.32 cannot start another engine in the same process."""
    items.sort(key=lambda item: item.path.name == "test_drafts.py")


class Documents:
    """Runs units of README and docs in a folder of their own, each once per session."""

    def __init__(self, folder: Path):
        self.folder, self._runner = workplace(folder), Runner(TABLE)

    def run(self, unit):
        """``unit``, or the command of this text."""
        unit = next(one for one in units() if one.key == unit) if isinstance(unit, str) else unit
        with contextlib.chdir(self.folder):
            self._runner(unit)


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    return Documents(tmp_path_factory.mktemp("documents"))


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Folder of the random model."""
    return vllm_host.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def reference(model):
    """The same model in Hugging Face."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype="float32").eval()
