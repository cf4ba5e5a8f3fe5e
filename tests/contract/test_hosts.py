"""Of a host we use what it shows: no private attribute of TRL is read, set or overridden; and tests need no host to be
collected."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRL = sorted((ROOT / "src" / "arrol" / "integrations" / "trl").glob("*.py"))
HOST_NAMES = {"trainer", "args", "trl", "accelerator", "vllm_generation"}
"""Names under which our code holds a TRL object."""


def private_uses(source):
    """``host._x`` anywhere; ``self._x`` and ``def _x`` in a class that inherits from TRL."""
    tree = ast.parse(source)
    found = [node for node in ast.walk(tree) if _is_private(node) and _owner(node) in HOST_NAMES]
    for cls in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        if any("trl" in ast.unparse(base) for base in cls.bases):
            found += [node for node in ast.walk(cls) if _is_private(node)]
            found += [f for f in cls.body if isinstance(f, ast.FunctionDef) and _is_hidden(f.name)]
    return [(node.lineno, ast.unparse(node).splitlines()[0]) for node in found]


def _is_hidden(name):
    return name.startswith("_") and not name.endswith("__")


def _is_private(node):
    return isinstance(node, ast.Attribute) and _is_hidden(node.attr)


def _owner(node):
    """Name at which the attribute hangs: ``trainer`` of both ``trainer._x`` and ``trainer.args._x``."""
    value = node.value
    while isinstance(value, ast.Attribute):
        if value.attr in HOST_NAMES:
            return value.attr
        value = value.value
    return value.id if isinstance(value, ast.Name) else None


@pytest.mark.parametrize("path", TRL, ids=lambda path: path.name)
def test_no_private_attribute_of_trl(path):
    assert private_uses(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "trainer._metrics",
        "self.host.trainer._step",
        "trainer.accelerator._models",
        "class A(trl.GRPOTrainer):\n    def f(self): return self._buffered_inputs",
        "class A(trl.GRPOTrainer):\n    def _compute_loss(self): ...",
        "class A(trl.GRPOTrainer):\n    def f(self): super()._generate()",
    ],
)
def test_the_test_sees_them(line):
    assert private_uses(line)


def test_there_is_something_to_look_at():
    assert {"trainer.py", "rollout.py", "engines.py"} <= {path.name for path in TRL}


def test_tests_of_hosts_load_no_host_to_be_collected():
    """The main suite collects them too, in an environment without TRL, verl and vLLM, and skips them."""
    folders = sorted(str(path) for path in (ROOT / "tests").glob("with_*"))
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
