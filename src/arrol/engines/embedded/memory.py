"""How much memory the key-value cache may take, and a block of code that may run out of it."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import torch

GIB = 2**30
FREE_SHARE = 0.5
"""Share of the free memory that a call takes for its cache; activations need the rest."""
MESSAGES = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")
"""Parts of the RuntimeErrors that mean the same as ``torch.OutOfMemoryError``."""
GROUP = Path("/sys/fs/cgroup")


def cache_bytes(cache_gib: float | Literal["auto"], device: torch.device, *, held: int) -> int:
    """Bytes for the cache; ``held`` bytes of it are allocated already and count as free."""
    return int(FREE_SHARE * (free_bytes(device) + held)) if cache_gib == "auto" else int(cache_gib * GIB)


def free_bytes(device: torch.device) -> int:
    """Free memory of the device: CUDA's, with what torch keeps in reserve, or the host's within its control group."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text("ascii").splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        free = _physical_bytes() // 2
    return min(free, _group_bytes(free))


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


class RanOut:
    """``with RanOut() as ran_out``: true afterwards when the block ran out of memory; other errors pass."""

    def __init__(self) -> None:
        self._has_run_out = False

    def __bool__(self) -> bool:
        return self._has_run_out

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._has_run_out = isinstance(error, torch.OutOfMemoryError | MemoryError) or (
            isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)
        )
        if self._has_run_out:
            traceback.clear_frames(trace)  # they hold the tensors of the failed block
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return self._has_run_out
