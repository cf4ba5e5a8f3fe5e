"""The entry point is light, and warns of a conflict that pip does not report."""

import logging
import subprocess
import sys
from importlib import metadata

import pytest

from arrol.integrations import versions
from arrol.integrations.verl import plugin

HEAVY = {"verl", "ray", "torch", "numpy", "pydantic", "hydra", "omegaconf", "tensordict", "transformers"}


@pytest.mark.parametrize("module", ["arrol.integrations.verl", "arrol.integrations.verl.plugin"])
def test_the_entry_point_loads_nothing(module):
    code = f"import {module}, sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_the_helper_and_the_service_need_neither_verl_nor_ray():
    code = "import arrol.integrations.verl.__main__, arrol.integrations.verl.client, arrol.integrations.verl.service"
    code += ", sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"verl", "ray", "tensordict", "vllm"} & set(done.stdout.split())


def test_the_entry_point_is_declared():
    text = metadata.distribution("arrol").read_text("entry_points.txt") or ""
    assert plugin.GROUP not in text or "arrol = arrol.integrations.verl.plugin" in text


def test_unknown_names_are_attribute_errors():
    import arrol.integrations.verl as package

    with pytest.raises(AttributeError, match="AgentLoopManagers"):
        package.AgentLoopManagers  # noqa: B018


@pytest.mark.parametrize(("version", "broken"), [("1.12.0", False), ("1.13.0", True), ("2.0.1", True), (None, False)])
def test_the_trl_that_breaks_verl(monkeypatch, version, broken):
    def version_of(name):
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(versions.metadata, "version", version_of)
    assert bool(plugin.trl_conflict()) is broken


def test_the_warning_comes_once_per_driver(monkeypatch, caplog):
    monkeypatch.delenv("ARROL_PLUGIN_WARNED", raising=False)
    monkeypatch.setattr(plugin, "trl_conflict", lambda: "trl = 9: breaks")
    with caplog.at_level(logging.WARNING):
        plugin._warn()
        plugin._warn()
    assert [record.getMessage() for record in caplog.records] == ["arrol: trl = 9: breaks"]
