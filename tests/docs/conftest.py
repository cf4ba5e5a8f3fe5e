"""A working directory for the commands of the documents."""

import pytest
import torch

from document_table import TABLE
from documents import Runner, workplace


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs units in one folder that holds links to what they name; the settings of torch are put back."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace(tmp_path_factory.mktemp("documents")))
        yield Runner(TABLE)
    torch.set_num_threads(threads)
