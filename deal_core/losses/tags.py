"""Multilabel classification from tri-state image-level tags."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def tag_loss(logits: Tensor, tags: Tensor) -> Tensor:
    """Return the multilabel soft-margin loss over the tags that are known, a scalar >= 0.

    The mean over known tags of -[y log sigmoid(x) + (1 - y) log(1 - sigmoid(x))]; equals
    `torch.nn.functional.multilabel_soft_margin_loss` if every tag is known.

    Args:
        logits: (B, K) raw scores.
        tags: (B, K), 1 present, 0 absent, nan unknown; an unknown tag gives neither loss nor gradient, and a
            batch without any known tag gives 0.

    Raises:
        ValueError: the shapes differ.

    >>> float(tag_loss(torch.zeros(1, 2), torch.tensor([[1.0, float("nan")]])))
    0.6931471824645996
    """
    if logits.shape != tags.shape or logits.ndim != 2:
        raise ValueError(
            f"expected logits and tags of one shape (B, K), got {tuple(logits.shape)}, {tuple(tags.shape)}"
        )
    known = ~torch.isnan(tags)
    target = tags.where(known, 0.0).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return losses.where(known, 0.0).sum() / known.sum().clamp_min(1)


def nan_unless_finite(loss: Tensor, *maps: Tensor) -> Tensor:
    """Return the loss, or nan if a map that it was computed from contains nan or infinity.

    A maximum or a clamp may hide such a value from the loss, while its gradient is nan. It needs no synchronisation
    with a GPU.
    """
    finite = torch.stack([torch.isfinite(values).all() for values in maps]).all()
    return torch.where(finite, loss, math.nan)


def check_cams(cams: Tensor, tags: Tensor) -> None:
    """Raise `ValueError` unless `cams` is (B, K, h, w) and `tags` is (B, K)."""
    if cams.ndim != 4:
        raise ValueError(f"expected cams of shape (B, K, h, w), got {tuple(cams.shape)}")
    if tags.shape != cams.shape[:2]:
        raise ValueError(f"expected tags of shape {tuple(cams.shape[:2])}, got {tuple(tags.shape)}")
