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
STATUS, MEMINFO = Path("/proc/self/status"), Path("/proc/meminfo")
LIMITS = {"RLIMIT_AS": "VmSize", "RLIMIT_DATA": "VmData"}
"""Limit of a process (``ulimit -v``, ``ulimit -d``) -> what of ``/proc/self/status`` counts against it."""


def host_free_bytes() -> int:
    """What this process may still allocate: free memory of the host, of its control group, and below its own limits."""
    free = _kibibytes(MEMINFO, "MemAvailable")
    if free is None:  # not Linux
        free = _physical_bytes() // 2
    return max(0, min(free, _group_bytes(free), *_limit_bytes(free)))


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


def _group_bytes(otherwise: int) -> int:
    """What the control group of a container leaves; cached files can be dropped and count as free."""
    try:
        limit, used = ((GROUP / name).read_text("ascii") for name in ("memory.max", "memory.current"))
        fields = dict(line.split() for line in (GROUP / "memory.stat").read_text("ascii").splitlines())
        return max(0, int(limit) - int(used) + int(fields["inactive_file"]))
    except (OSError, KeyError, ValueError):  # no such group, or its limit is "max"
        return otherwise


def _limit_bytes(otherwise: int) -> list[int]:
    """What the limits of this process leave."""
    try:
        import resource
    except ImportError:  # not POSIX
        return [otherwise]
    left = [otherwise]
    for name, field in LIMITS.items():
        limit, used = resource.getrlimit(getattr(resource, name))[0], _kibibytes(STATUS, field)
        if limit != resource.RLIM_INFINITY and used is not None:
            left.append(limit - used)
    return left
