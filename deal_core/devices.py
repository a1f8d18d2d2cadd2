"""Devices of PyTorch: which to use, and the memory of a GPU."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import torch

from deal_core.errors import UsageError

_MIB = 2**20
_DEVICE_TYPES = ("cpu", "cuda", "mps")


def resolve_device(device: str) -> str:
    """Return the device to use; "auto" is the first GPU if there is one, else the CPU.

    Raises:
        UsageError: the device is unknown or does not exist here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if torch.device(device).type not in _DEVICE_TYPES:
            raise RuntimeError(f"not one of {', '.join(_DEVICE_TYPES)}")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"device '{device}' cannot be used here ({reason}); expected auto, cpu, cuda or cuda:N"
        ) from None
    return device


@dataclass(frozen=True)
class GpuMemory:
    """Memory of one GPU in MiB.

    Args:
        reserved: memory that PyTorch has reserved in this process.
        free: memory that is free for any process.
        total: memory of the GPU.
    """

    reserved: int
    free: int
    total: int

    def __str__(self) -> str:
        return f"{self.reserved} MiB by PyTorch here, {self.free} of {self.total} MiB free"


def gpu_memory(device: str) -> GpuMemory | None:
    """Return the memory of the GPU that a device names; None for other devices."""
    if not device.startswith("cuda"):
        return None
    free, total = torch.cuda.mem_get_info(device)
    return GpuMemory(torch.cuda.memory_reserved(device) // _MIB, free // _MIB, total // _MIB)


def release_gpu_memory() -> None:
    """Return to the GPU the memory that no tensor uses any more."""
    gc.collect()  # a network's modules refer to each other in circles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
