"""Memory of GPUs: how much is in use, and giving back what is not."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import torch

_MIB = 2**20


@dataclass(frozen=True)
class GpuMemory:
    """Memory of one GPU in MiB.

    Args:
        reserved: by PyTorch in this process.
        free: for anybody.
        total: of the GPU.
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
    """Give back to the GPU what no tensor uses any more."""
    gc.collect()  # a network's modules refer to each other in circles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
