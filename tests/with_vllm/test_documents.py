"""The commands and code blocks of README and docs that need vLLM; ``test_serving.py`` runs the server's."""

import pytest

from document_table import TABLE
from documents import units


@pytest.mark.parametrize(
    "unit",
    [unit for unit in units() if TABLE[unit.key].where == "vllm"],
    ids=lambda unit: f"{unit.page}:{unit.line}",
)
def test_it_runs(unit, documents):
    documents.run(unit)
