"""How much memory the key-value cache may take, and a block of code that may run out of it."""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Literal, Self

import torch

from arrol.configs.memory import GIB, host_free_bytes

FREE_SHARE = 0.5
"""Share of the free memory that a call takes for its cache; activations need the rest."""
MESSAGES = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")
"""Parts of the RuntimeErrors that mean the same as ``torch.OutOfMemoryError``."""


def cache_bytes(cache_gib: float | Literal["auto"], device: torch.device, *, held: int) -> int:
    """Bytes for the cache; ``held`` bytes of it are allocated already and count as free."""
    return int(FREE_SHARE * (free_bytes(device) + held)) if cache_gib == "auto" else int(cache_gib * GIB)


def free_bytes(device: torch.device) -> int:
    """Free memory of the device: CUDA's, with what torch keeps in reserve, or what this process may still allocate."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return host_free_bytes()


def is_shortage(error: BaseException | None) -> bool:
    """True for the errors that mean that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)
    )


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
        self._has_run_out = is_shortage(error)
        if self._has_run_out:
            traceback.clear_frames(trace)  # they hold the tensors of the failed block
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return self._has_run_out
