"""Memory of GPUs, with and without one."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch

from deal_core import devices
from deal_core.devices import (
    GpuMemory,
    check_device,
    cpu_threads,
    cuda_result,
    gpu_count,
    gpu_memory,
    gpu_number,
    release_gpu_memory,
)
from deal_core.errors import BackendError, UsageError


def test_without_a_gpu_there_is_none_to_tell_of() -> None:
    assert gpu_memory("cpu") is None
    release_gpu_memory()


def test_words() -> None:
    assert str(GpuMemory(12, 3000, 8000)) == "12 MiB by PyTorch here, 3000 of 8000 MiB free"
    assert str(GpuMemory(None, 3000, 8000)) == "3000 of 8000 MiB free"


@pytest.mark.gpu
def test_what_is_let_go_is_given_back() -> None:
    block = torch.empty(64 * 2**20, dtype=torch.uint8, device="cuda")
    with_block = gpu_memory("cuda")
    del block
    release_gpu_memory()
    without = gpu_memory("cuda")
    assert with_block is not None and without is not None
    assert 0 < without.reserved + 64 <= with_block.reserved <= with_block.total


@pytest.mark.parametrize(
    ("device", "number"),
    [("cuda", 0), ("cuda:0", 0), ("cuda:12", 12), ("cpu", None), ("cuda:", None), ("cuda:-1", None), ("cuda:x", None)],
)
def test_the_number_of_a_gpu(device: str, number: int | None) -> None:
    assert gpu_number(device) == number


class Driver:
    """The CUDA driver of a machine with so many GPUs."""

    def __init__(self, count: int, *, status: int = 0) -> None:
        self._count, self._status = count, status

    def cuInit(self, flags: int) -> int:
        assert flags == 0
        return self._status

    def cuDeviceGetCount(self, count: Any) -> int:
        ctypes.cast(count, ctypes.POINTER(ctypes.c_int))[0] = self._count
        return 0


@pytest.mark.parametrize(("driver", "count"), [(Driver(2), 2), (Driver(0), 0), (Driver(1, status=100), 0)])
def test_gpus_are_counted_by_the_driver(monkeypatch: pytest.MonkeyPatch, driver: Driver, count: int) -> None:
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: driver)
    assert gpu_count() == count


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(devices.ctypes, "CDLL", missing)
    assert gpu_count() == 0
    with pytest.raises(UsageError, match="device 'cuda' cannot be used here"):
        check_device("cuda")
    for device in ("auto", "cpu"):
        check_device(device)


@pytest.mark.parametrize(("wanted", "expected"), [("3", 3), ("2,1", 2), ("0", None), ("many", None), ("", None)])
def test_threads_without_torch(monkeypatch: pytest.MonkeyPatch, wanted: str, expected: int | None) -> None:
    monkeypatch.setattr(devices, "_loaded_torch", lambda: None)
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(devices, "_core_of", lambda cpu: str(cpu % 2))  # two cores of two threads each
    assert cpu_threads() == (expected or 2)


def test_threads_are_those_of_torch_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    torch.set_num_threads(3)
    try:
        assert cpu_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_call_of_cuda_that_failed_is_named() -> None:
    assert cuda_result((0,)) == () and cuda_result((0, 5)) == 5 and cuda_result((0, 5, 6)) == (5, 6)
    with pytest.raises(BackendError, match="CUDA failed with 2"):
        cuda_result((2, None))
