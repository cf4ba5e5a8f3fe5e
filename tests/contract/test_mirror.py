"""Every module of layers 1 to 5 has its tests in the same place."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("configs", "records", "quality", "verifiers", "pruning", "algorithms", "tasks", "test_time", "engines")
MODULES = sorted(
    path.relative_to(ROOT / "src" / "arrol")
    for package in PACKAGES
    for path in (ROOT / "src" / "arrol" / package).rglob("*.py")
    if path.name != "__init__.py"
)


def test_there_is_something_to_mirror():
    assert len(MODULES) > 25


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_has_its_tests(module):
    assert (ROOT / "tests" / "unit" / module.with_name(f"test_{module.name}")).is_file()
