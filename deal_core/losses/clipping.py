"""Cross-entropy with the gradient clipping of WeakTr: no pixel counts more than the mean around it."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from deal_core.structures import UNLABELLED


class ClippedLoss(NamedTuple):
    """The loss, and the share of the labelled pixels whose loss was clipped."""

    loss: Tensor
    clipped: Tensor


def clipped_cross_entropy(logits: Tensor, mask: Tensor, *, below: float = 1.2, cells: int = 4) -> ClippedLoss:
    """Return the cross-entropy of the second stage of WeakTr (Zhu et al. 2023, arXiv 2304.01184), a scalar >= 0.

    Wrong pixels of pseudo masks have a large loss once the network predicts the right class. Once the mean over
    the batch has fallen to `below`, the loss of each pixel is cut at the mean of its cell of a grid over the images
    (over the batch too), or at the mean of all pixels if that is larger; clipped pixels give no gradient.

    Args:
        logits: (B, K + 1, H, W), background first.
        mask: (B, H, W) ids, 255 is ignored, also in the means.
        below: mean loss at which clipping begins; 0 never clips.
        cells: number of cells along each side of the grid.

    Raises:
        ValueError: the shapes differ, or a side has more cells than pixels.

    >>> loss, clipped = clipped_cross_entropy(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8))
    >>> round(float(loss), 4), float(clipped)
    (0.6931, 0.0)
    """
    if logits.ndim != 4 or mask.shape != (len(logits), *logits.shape[2:]):
        raise ValueError(f"expected logits (B, K, H, W) and mask (B, H, W), got {logits.shape} and {mask.shape}")
    if not 1 <= cells <= min(mask.shape[1:]):
        raise ValueError(f"expected cells between 1 and the shorter side of {tuple(mask.shape[1:])}, got {cells}")
    losses = F.cross_entropy(logits.float(), mask.long(), ignore_index=UNLABELLED, reduction="none")
    known = (mask != UNLABELLED).float()
    number = known.sum().clamp_min(1)
    mean = losses.sum() / number
    if float(mean.detach()) > below:
        return ClippedLoss(mean, mean.new_zeros(()))
    limit = _cell_means(losses.detach(), known, cells).maximum(mean.detach())
    clipped = ((losses.detach() > limit).float() * known).sum() / number
    return ClippedLoss((losses.minimum(limit) * known).sum() / number, clipped)


def _cell_means(losses: Tensor, known: Tensor, cells: int) -> Tensor:
    """Return (H, W) the mean loss over the batch and the known pixels of each pixel's cell."""
    rows, columns = (_membership(length, cells).to(losses) for length in losses.shape[1:])
    sums = rows @ losses.sum(0) @ columns.T
    numbers = rows @ known.sum(0) @ columns.T
    return rows.T @ (sums / numbers.clamp_min(1)) @ columns


def _membership(length: int, cells: int) -> Tensor:
    """Return (cells, length): 1 where a position is in a cell."""
    return F.one_hot(torch.arange(length) * cells // length, cells).T
