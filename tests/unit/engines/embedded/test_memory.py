"""What counts as free memory, and which errors mean that there is none."""

import pytest
import torch

from arrol.engines.embedded import memory
from arrol.engines.embedded.memory import GIB, RanOut, cache_bytes, free_bytes

CPU = torch.device("cpu")


def test_a_number_is_obeyed_and_auto_is_half_of_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10 * GIB)
    assert cache_bytes(0.25, CPU, held=GIB) == GIB // 4
    assert cache_bytes("auto", CPU, held=0) == 5 * GIB
    assert cache_bytes("auto", CPU, held=2 * GIB) == 6 * GIB, "the engine's own memory is free for it"


def test_cuda_counts_what_torch_keeps_in_reserve(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert free_bytes(torch.device("cuda")) == 130


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_an_error_for_want_of_memory_is_remembered(error):
    with RanOut() as ran_out:
        raise error
    assert ran_out
    with RanOut() as ran_out:
        pass
    assert not ran_out


def test_the_real_error_of_the_cpu():
    with RanOut() as ran_out:
        torch.empty(2**60, dtype=torch.uint8)
    assert ran_out


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shape"), RanOut():
        raise RuntimeError("shape mismatch")
    with pytest.raises(ValueError), RanOut():
        raise ValueError
