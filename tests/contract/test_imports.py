"""The import law holds, and what must be light is light."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "datasets", "matplotlib", "math_verify", "sympy", "safetensors", "vllm")


def loaded_by(statement):
    """Top-level packages in memory after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_the_layer_law_holds():
    code = "import sys; from importlinter.cli import lint_imports_command as run; sys.argv = ['lint-imports']; run()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize("statement", ["import arrol", "import arrol.cli.main; arrol.cli.main.build_parser()"])
def test_help_loads_nothing_but_the_standard_library(statement):
    assert not loaded_by(statement) & {*HEAVY, "pydantic", "numpy", "rich"}


@pytest.mark.parametrize(
    "module",
    [
        "configs.run",
        "configs.sft",
        "records.store",
        "protocols",
        "stats",
        "pruning.controller",
        "engines.scripted",
        "test_time.live",
        "test_time.replay",
    ],
)
def test_what_decides_never_loads_a_model(module):
    assert not loaded_by(f"import arrol.{module}") & {*HEAVY, "rich"}


def test_reports_load_no_model():
    assert not loaded_by("import arrol.reports.page") & {"torch", "transformers", "datasets", "sympy"}


def test_a_pool_is_judged_without_transformers():
    """Seconds of ``arrol advise``, which has ten."""
    assert not loaded_by("import arrol.lab.merit") & {"transformers", "datasets", "sympy"}


def test_all_configs_load_with_torch_absent():
    files = sorted(str(path) for path in (ROOT / "configs").glob("*.toml"))
    assert files
    code = f"""
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from arrol.cli.info import _resolve
for file in {files!r}:
    _resolve(file, [])
"""
    loaded_by(code)


def test_a_samples_file_is_scored_without_transformers(tmp_path):
    file = tmp_path / "samples.jsonl"
    file.write_text('{"prompt": "2 + 2?", "answer": "4", "completion": "#### 4"}\n', "utf-8")
    command = f"from arrol.cli.main import main; assert main(['eval', '--samples', {str(file)!r}, '--json']) == 0"
    code = f"{command}\nimport sys\nassert not {{'torch', 'transformers'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
