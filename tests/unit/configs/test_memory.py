"""What counts as free memory: the host's, a container's, and what the limits of the process leave."""

import resource

import pytest

from arrol.configs import memory
from arrol.configs.memory import as_gib, host_free_bytes, host_most_bytes, swap_bytes


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """Files of /proc and of the control group, as the test writes them."""
    for name in ("GROUP", "STATUS", "MEMINFO", "OWN_GROUPS"):
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
    group_of(proc / "GROUP", 1000, 700, 200, 30)
    assert host_free_bytes() == 500
    assert host_most_bytes() == 530 + 50 * 1024, "with swap, and files in use given up"
    (proc / "GROUP" / "memory.max").write_text("max\n")
    assert host_free_bytes() == 4000 * 1024
    assert host_most_bytes() == 4050 * 1024


def group_of(folder, limit, used, inactive, active, version=2):
    """Files of a control group."""
    most, current, prefix = memory.GROUP_FILES["" if version == 2 else "memory"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / most).write_text(f"{limit}\n")
    (folder / current).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 400\n{prefix}inactive_file {inactive}\n{prefix}active_file {active}\n")


@pytest.mark.parametrize("version", [1, 2])
def test_every_group_around_the_process_counts(proc, version):
    root = proc / "GROUP" / ("memory" if version == 1 else "")
    (proc / "OWN_GROUPS").write_text("5:cpu,memory:/a/b\n1:name=systemd:/\n" if version == 1 else "0::/a/b\n")
    assert host_free_bytes() == 4000 * 1024, "none has files"
    group_of(root, 2**63 - 4096, 100, 0, 0, version)
    group_of(root / "a" / "b", 9000, 1000, 0, 0, version)
    group_of(root / "other", 10, 10, 0, 0, version)
    assert host_free_bytes() == 8000
    group_of(root / "a", 3000, 1000, 100, 0, version)
    assert host_free_bytes() == 2100
    group_of(root, 1500, 1000, 0, 0, version)
    assert host_free_bytes() == 500


def test_a_container_sees_its_group_as_the_root(proc):
    (proc / "OWN_GROUPS").write_text("4:memory:/docker/0123\n")
    group_of(proc / "GROUP" / "memory", 1000, 700, 0, 0, version=1)
    assert host_free_bytes() == 300


@pytest.mark.parametrize(
    ("name", "limit", "left"), [("RLIMIT_AS", 1500, 500), ("RLIMIT_DATA", 400, 100), ("RLIMIT_AS", 900, 0)]
)
def test_limits_of_the_process_count(proc, monkeypatch, name, limit, left):
    limits = {getattr(resource, name): limit * 1024}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits.get(which, resource.RLIM_INFINITY),) * 2)
    assert host_free_bytes() == host_most_bytes() == left * 1024


def test_other_systems(proc, monkeypatch):
    (proc / "MEMINFO").unlink()
    (proc / "STATUS").unlink()
    monkeypatch.setattr(memory.os, "sysconf", lambda name: 1000, raising=False)
    assert (host_free_bytes(), host_most_bytes()) == (500_000, 1_000_000)
    monkeypatch.delattr(memory.os, "sysconf")
    assert host_free_bytes() == 4 * 2**30
    assert swap_bytes() == 0


def test_sizes_are_readable():
    assert [as_gib(count) for count in (0, 2**20, 17.2 * 2**30, 10**30)] == [
        "below 0.01 GiB", "below 0.01 GiB", "17.2 GiB", "9.31e+20 GiB",
    ]  # fmt: skip
