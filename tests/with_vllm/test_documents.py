"""The commands and code blocks of README and docs that need vLLM (``tests/document_table.py``)."""

import os
import shlex
import socket
import subprocess
import sys

import pytest

import vllm_host
from document_table import CLIENT, SERVE, TABLE
from documents import Runner, units, workplace

UNITS = [unit for unit in units() if TABLE[unit.key].where == "vllm"]
CLIENT_OF_05 = f".venv-vllm/bin/python {CLIENT}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Each command in the folder of the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace(tmp_path_factory.mktemp("documents")))
        yield Runner(TABLE)


@pytest.mark.parametrize(
    "unit",
    [unit for unit in UNITS if unit.key not in (SERVE, CLIENT_OF_05)],
    ids=lambda unit: f"{unit.page}:{unit.line}",
)
def test_it_runs(unit, run):
    run(unit)


def test_the_server_and_its_client(run):
    """As written, on a free port."""
    run(next(unit for unit in UNITS if TABLE[unit.key].after == () and "arrol train" in unit.key))
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = str(found.getsockname()[1])
    *variables, _ = shlex.split(SERVE[: SERVE.index("-m ")])
    command = shlex.split(SERVE[SERVE.index("-m ") :].replace("8000", port))
    own = dict(variable.split("=") for variable in variables)
    environment = {**os.environ, **own, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    environment["VLLM_WORKER_MULTIPROCESSING_METHOD"] = "spawn"
    with vllm_host.serving([sys.executable, *command], environment):
        script, url = CLIENT.split()
        answer = subprocess.run(
            [sys.executable, script, url.replace("8000", port)], capture_output=True, text=True, check=True
        )
    assert answer.stdout.count("pruned, score") >= 2, answer.stdout
