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


def test_the_control_group_of_a_container_counts(tmp_path, monkeypatch):
    host = free_bytes(CPU)
    assert host > 0
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 200\n")
    assert free_bytes(CPU) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) > 10**6


def test_other_systems(monkeypatch):
    class Absent:
        def __init__(self, *parts):
            pass

        def __truediv__(self, name):
            return self

        def read_text(self, encoding):
            raise FileNotFoundError

    monkeypatch.setattr(memory, "Path", Absent)
    monkeypatch.setattr(memory, "GROUP", Absent())
    monkeypatch.setattr(memory.os, "sysconf", lambda name: 1000, raising=False)
    assert free_bytes(CPU) == 500_000
    monkeypatch.delattr(memory.os, "sysconf")
    assert free_bytes(CPU) == 4 * GIB


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
