"""Clipping of large losses: against a formulation with loops, and what it must never do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from deal_core.losses.clipping import clipped_cross_entropy


def example(seed: int, shape: tuple[int, int, int] = (2, 11, 14)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape[0], 4, *shape[1:], generator=generator, dtype=torch.float32)
    mask = torch.randint(0, 5, shape, generator=generator)
    return logits, mask.where(mask < 4, 255).to(torch.uint8)


def slow(logits: np.ndarray, mask: np.ndarray, below: float, cells: int) -> float:
    """Pixel by pixel in plain Python."""
    losses: dict[tuple[int, int, int], float] = {}
    for b, y, x in np.ndindex(mask.shape):
        if mask[b, y, x] != 255:
            values = [float(v) for v in logits[b, :, y, x]]
            losses[b, y, x] = math.log(sum(math.exp(v) for v in values)) - values[mask[b, y, x]]
    mean = sum(losses.values()) / len(losses)
    if mean > below:
        return mean
    height, width = mask.shape[1:]
    by_cell: dict[tuple[int, int], list[float]] = {}
    for (_, y, x), loss in losses.items():
        by_cell.setdefault((y * cells // height, x * cells // width), []).append(loss)
    limits = {cell: max(sum(of) / len(of), mean) for cell, of in by_cell.items()}
    cut = [min(loss, limits[y * cells // height, x * cells // width]) for (_, y, x), loss in losses.items()]
    return sum(cut) / len(cut)


@given(seed=st.integers(0, 1000), below=st.sampled_from([0.0, 1.2, 1.8, 9.0]), cells=st.integers(1, 6))
def test_agrees_with_loops_and_never_exceeds_the_cross_entropy(seed: int, below: float, cells: int) -> None:
    logits, mask = example(seed)
    loss, clipped = clipped_cross_entropy(logits, mask, below=below, cells=cells)
    assert float(loss) == pytest.approx(slow(logits.numpy(), mask.numpy(), below, cells), rel=1e-5)
    plain = F.cross_entropy(logits, mask.long(), ignore_index=255)
    assert float(loss) <= float(plain) * (1 + 1e-6) and 0 <= float(clipped) < 1
    if below == 0.0:
        assert float(loss) == pytest.approx(float(plain)) and float(clipped) == 0


def test_what_is_cut_or_ignored_gives_no_gradient() -> None:
    logits = torch.zeros(1, 2, 8, 8)
    logits[:, 0] = 3.0  # sure of the background
    mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[0, 1, 1], mask[0, 6, 6] = 1, 255
    logits.requires_grad_(True)
    loss, clipped = clipped_cross_entropy(logits, mask, cells=2)
    loss.backward()
    assert logits.grad is not None
    gradient = logits.grad.abs().sum(1)[0]
    assert gradient[1, 1] == 0 and gradient[6, 6] == 0 and (gradient > 0).sum() == 62
    assert float(clipped) == pytest.approx(1 / 63)


def test_a_batch_without_any_label_gives_zero_and_other_shapes_are_refused() -> None:
    logits, mask = example(1)
    loss, _ = clipped_cross_entropy(logits.requires_grad_(True), torch.full_like(mask, 255))
    loss.backward()
    assert float(loss.detach()) == 0 and logits.grad is not None and not logits.grad.any()
    with pytest.raises(ValueError, match="expected logits"):
        clipped_cross_entropy(logits, mask[:, :4])
    with pytest.raises(ValueError, match="cells"):
        clipped_cross_entropy(logits, mask, cells=12)
