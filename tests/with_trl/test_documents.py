"""The commands and code blocks of README and docs that need TRL (``tests/document_table.py``)."""

import pytest
import torch

import trl_host
from document_table import TABLE
from documents import Runner, units, workplace

UNITS = [
    unit
    for unit in units()
    if TABLE[unit.key].where == "trl" and (trl_host.has_async() or unit.page != "docs/trl-async.md")
]


def parity(completions, **columns):
    return [float(len(completion) % 2) for completion in completions]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The names that the blocks take for granted stand for the shipped model and data of the tests."""
    threads = torch.get_num_threads()
    names = {"dataset": trl_host.dataset(), "accuracy_reward": trl_host.has_digit}
    # the shipped model has no chat template, and rewards must differ within a group
    names |= {"text_rows": trl_host.dataset(chat=False), "parity": parity}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace(tmp_path_factory.mktemp("documents")))
        yield Runner(TABLE, names | {"model_folder": "models/arithmetic-base"})
    torch.set_num_threads(threads)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: f"{unit.page}:{unit.line}")
def test_it_runs(unit, run):
    run(unit)
