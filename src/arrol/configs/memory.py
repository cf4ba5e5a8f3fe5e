"""Memory of this machine, and how a refusal names it.

>>> as_gib(3 * 2**29)
'1.5 GiB'
>>> as_gib(10**20)
'9.31e+10 GiB'
"""

from __future__ import annotations

import os
from pathlib import Path

GIB = 2**30
GROUP = Path("/sys/fs/cgroup")
STATUS, MEMINFO, OWN_GROUPS = Path("/proc/self/status"), Path("/proc/meminfo"), Path("/proc/self/cgroup")
GROUP_FILES = {
    "": ("memory.max", "memory.current", ""),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
}
"""Folder of control groups, of version 2 and of version 1 -> files of a limit and of what is used, prefix of fields in
``memory.stat``."""
LIMITS = {"RLIMIT_AS": "VmSize", "RLIMIT_DATA": "VmData"}
"""Limit of a process (``ulimit -v``, ``ulimit -d``) -> what of ``/proc/self/status`` counts against it."""


def host_free_bytes() -> int:
    """What this process may allocate without harm: free memory of the host, of its control groups, and below its own
    limits."""
    free = _kibibytes(MEMINFO, "MemAvailable")
    if free is None:  # not Linux
        free = _physical_bytes() // 2
    return max(0, min([free, *_group_bytes(("inactive_file",)), *_limit_bytes()]))


def host_most_bytes() -> int:
    """What this process may allocate at all: as :func:`host_free_bytes`, with swap and every cached file given up."""
    free = _kibibytes(MEMINFO, "MemAvailable")
    if free is None:  # not Linux
        free = _physical_bytes()
    groups = [left + swap_bytes() for left in _group_bytes(("inactive_file", "active_file"))]
    return max(0, min([free + swap_bytes(), *groups, *_limit_bytes()]))


def swap_bytes() -> int:
    """Free swap of the host, 0 where that is unknown."""
    return _kibibytes(MEMINFO, "SwapFree") or 0


def as_gib(num_bytes: float) -> str:
    """Three digits and the unit; less than a hundredth is not told apart."""
    size = num_bytes / GIB
    return f"{size:.3g} GiB" if size >= 0.01 else "below 0.01 GiB"


def _kibibytes(path: Path, field: str) -> int | None:
    """A field of a file of ``/proc`` in bytes; None where there is none."""
    try:
        fields = dict(line.split(":", 1) for line in path.read_text("ascii").splitlines() if ":" in line)
        return int(fields[field].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return None


def _physical_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows
        return 8 * GIB


def _group_bytes(cached: tuple[str, ...]) -> list[int]:
    """What each control group of this process leaves; ``cached`` are fields of files in memory, which count as free."""
    left = []
    for root, (most, current, prefix) in GROUP_FILES.items():
        for folder in _own_folders(root):
            try:
                limit, used = (int((folder / name).read_text("ascii")) for name in (most, current))
                fields = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
                left.append(max(0, limit - used + sum(int(fields[prefix + name]) for name in cached)))
            except (OSError, KeyError, ValueError):  # no such group, or its limit is "max"
                continue
    return left


def _own_folders(root: str) -> list[Path]:
    """Folders of the groups that hold this process, up to the root; inside a container the root alone is there."""
    path = ""
    try:
        for line in OWN_GROUPS.read_text("ascii").splitlines():
            _, controllers, own = line.split(":", 2)
            if root in controllers.split(","):
                path = own.strip("/")
    except (OSError, ValueError):
        pass
    folder = GROUP / root / path
    return [folder, *(parent for parent in folder.parents if parent == GROUP / root or GROUP / root in parent.parents)]


def _limit_bytes() -> list[int]:
    """What each limit of this process leaves."""
    try:
        import resource
    except ImportError:  # not POSIX
        return []
    left = []
    for name, field in LIMITS.items():
        limit, used = resource.getrlimit(getattr(resource, name))[0], _kibibytes(STATUS, field)
        if limit != resource.RLIM_INFINITY and used is not None:
            left.append(limit - used)
    return left
