"""Devices that networks run on: which exist, their memory, and the number of CPU threads.

Only `resolve_device` loads PyTorch; the memory of a GPU is asked of PyTorch where it is loaded already.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deal_core.errors import BackendError, UsageError

_MIB = 2**20
_DEVICE_TYPES = ("cpu", "cuda", "mps")
_EXPECTED = "expected auto, cpu, cuda or cuda:N"


def resolve_device(device: str) -> str:
    """Return the device of PyTorch to use; "auto" is the first GPU if there is one, else the CPU.

    Raises:
        UsageError: the device is unknown or does not exist here.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if torch.device(device).type not in _DEVICE_TYPES:
            raise RuntimeError(f"not one of {', '.join(_DEVICE_TYPES)}")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device '{device}' cannot be used here ({reason}); {_EXPECTED}") from None
    return device


def check_device(device: str) -> None:
    """Check, without PyTorch, that a device is known, and that a GPU which it names exists.

    Args:
        device: "auto", "cpu", "mps", "cuda" (the first GPU) or "cuda:N".

    Raises:
        UsageError: the device is unknown or does not exist here.
    """
    if device in ("auto", "cpu", "mps"):
        return
    number = gpu_number(device)
    if number is None:
        raise UsageError(f"device '{device}' cannot be used here (no such device); {_EXPECTED}")
    count = gpu_count()
    if number >= count:
        found = f"the NVIDIA driver gives only {count}" if count else "there is no NVIDIA GPU with a driver"
        raise UsageError(f"device '{device}' cannot be used here ({found}); {_EXPECTED}")


def gpu_number(device: str) -> int | None:
    """Return the number of the GPU that a device names, from 0; None for other devices.

    >>> gpu_number("cuda"), gpu_number("cuda:1"), gpu_number("cpu")
    (0, 1, None)
    """
    kind, separator, number = device.partition(":")
    if kind != "cuda" or (separator and not (number.isascii() and number.isdigit())):
        return None
    return int(number or 0)


def gpu_count() -> int:
    """Return the number of NVIDIA GPUs that the driver gives to this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def cpu_threads() -> int:
    """Return the number of threads for a network on the CPU, as PyTorch chooses it.

    If PyTorch is loaded, it is asked. Elsewhere it is `OMP_NUM_THREADS`, or else the number of cores that this process
    may use; the two threads of one core count once.
    """
    if (torch := _loaded_torch()) is not None:
        return int(torch.get_num_threads())
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return len({_core_of(cpu) for cpu in os.sched_getaffinity(0)})


def import_cuda() -> Any:
    """Return the CUDA runtime of the package cuda-bindings; raise `BackendError` if it is missing."""
    try:
        from cuda.bindings import runtime

        return runtime
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(
            f"GPU memory without PyTorch needs the package cuda-bindings ({error}): pip install 'deal_ros[tensorrt]'"
        ) from None


def cuda_result(outcome: tuple[Any, ...]) -> Any:
    """Return the result of a function of the CUDA runtime; raise `BackendError` if the function failed."""
    error, *results = outcome
    if int(error) != 0:
        raise BackendError(f"CUDA failed with {getattr(error, 'name', error)}")
    return results[0] if len(results) == 1 else tuple(results)


@dataclass(frozen=True)
class GpuMemory:
    """Memory of one GPU in MiB.

    Args:
        reserved: memory that PyTorch has reserved in this process; None where PyTorch is not loaded.
        free: memory that is free for any process.
        total: memory of the GPU.
    """

    reserved: int | None
    free: int
    total: int

    def __str__(self) -> str:
        free = f"{self.free} of {self.total} MiB free"
        return free if self.reserved is None else f"{self.reserved} MiB by PyTorch here, {free}"


def gpu_memory(device: str) -> GpuMemory | None:
    """Return the memory of the GPU that a device names; None for other devices."""
    number = gpu_number(device)
    if number is None:
        return None
    if (torch := _loaded_torch()) is not None:
        free, total = torch.cuda.mem_get_info(device)
        return GpuMemory(torch.cuda.memory_reserved(device) // _MIB, free // _MIB, total // _MIB)
    cuda = import_cuda()
    cuda_result(cuda.cudaSetDevice(number))
    free, total = cuda_result(cuda.cudaMemGetInfo())
    return GpuMemory(None, free // _MIB, total // _MIB)


def release_gpu_memory() -> None:
    """Return to the GPU the memory that no tensor uses any more."""
    gc.collect()  # a network's modules refer to each other in circles
    if (torch := _loaded_torch()) is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _loaded_torch() -> Any:
    """Return PyTorch if this process has loaded it, else None."""
    return sys.modules.get("torch")


def _core_of(cpu: int) -> str:
    """Return what the CPUs of one core have in common, or the CPU's own number where Linux does not tell."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii")
    except OSError:
        return str(cpu)
