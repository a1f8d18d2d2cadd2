"""Memory of GPUs, with and without one."""

from __future__ import annotations

import pytest
import torch

from deal_core.devices import GpuMemory, gpu_memory, release_gpu_memory


def test_without_a_gpu_there_is_none_to_tell_of() -> None:
    assert gpu_memory("cpu") is None
    release_gpu_memory()


def test_words() -> None:
    assert str(GpuMemory(12, 3000, 8000)) == "12 MiB by PyTorch here, 3000 of 8000 MiB free"


@pytest.mark.gpu
def test_what_is_let_go_is_given_back() -> None:
    block = torch.empty(64 * 2**20, dtype=torch.uint8, device="cuda")
    with_block = gpu_memory("cuda")
    del block
    release_gpu_memory()
    without = gpu_memory("cuda")
    assert with_block is not None and without is not None
    assert 0 < without.reserved + 64 <= with_block.reserved <= with_block.total
