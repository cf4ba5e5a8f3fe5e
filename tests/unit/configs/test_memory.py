"""What counts as free memory: the host's, a container's, and what the limits of the process leave."""

import resource

import pytest

from arrol.configs import memory
from arrol.configs.memory import as_gib, host_free_bytes, swap_bytes


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """Files of /proc and of the control group, as the test writes them."""
    for name in ("GROUP", "STATUS", "MEMINFO"):
        monkeypatch.setattr(memory, name, tmp_path / name)
    (tmp_path / "GROUP").mkdir()
    (tmp_path / "MEMINFO").write_text("MemTotal:  9000 kB\nMemAvailable:  4000 kB\nSwapFree:   50 kB\n")
    (tmp_path / "STATUS").write_text("Name:\tpython\nVmSize:\t  1000 kB\nVmData:\t  300 kB\n")
    return tmp_path


def test_this_machine_has_memory():
    assert host_free_bytes() > 10**7


def test_the_host_and_its_swap(proc):
    assert host_free_bytes() == 4000 * 1024
    assert swap_bytes() == 50 * 1024


def test_the_control_group_of_a_container_counts(proc):
    (proc / "GROUP" / "memory.max").write_text("1000\n")
    (proc / "GROUP" / "memory.current").write_text("700\n")
    (proc / "GROUP" / "memory.stat").write_text("anon 400\ninactive_file 200\n")
    assert host_free_bytes() == 500
    (proc / "GROUP" / "memory.max").write_text("max\n")
    assert host_free_bytes() == 4000 * 1024


@pytest.mark.parametrize(
    ("name", "limit", "left"), [("RLIMIT_AS", 1500, 500), ("RLIMIT_DATA", 400, 100), ("RLIMIT_AS", 900, 0)]
)
def test_limits_of_the_process_count(proc, monkeypatch, name, limit, left):
    limits = {getattr(resource, name): limit * 1024}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits.get(which, resource.RLIM_INFINITY),) * 2)
    assert host_free_bytes() == left * 1024


def test_other_systems(proc, monkeypatch):
    (proc / "MEMINFO").unlink()
    (proc / "STATUS").unlink()
    monkeypatch.setattr(memory.os, "sysconf", lambda name: 1000, raising=False)
    assert host_free_bytes() == 500_000
    monkeypatch.delattr(memory.os, "sysconf")
    assert host_free_bytes() == 4 * 2**30
    assert swap_bytes() == 0


def test_sizes_are_readable():
    assert [as_gib(count) for count in (0, 2**20, 17.2 * 2**30, 10**30)] == [
        "below 0.01 GiB", "below 0.01 GiB", "17.2 GiB", "9.31e+20 GiB",
    ]  # fmt: skip
