"""The background among class scores: added before a refinement that lets classes compete, taken out after it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ARGMAX_THRESHOLD = 0.5
"""The threshold on `without_background` at which a pixel goes to whichever of class and background is stronger."""


def background_power(threshold: float) -> float:
    """Return the alpha at which a pixel whose best score is `threshold` is as much background as class.

    The background score is (1 - best)^alpha (Ahn and Kwak 2018), where papers choose alpha by hand. The alpha that
    solves (1 - t)^alpha = t makes the decision before the refinement that of the threshold t, which a rule without
    masks has chosen, and so follows the level of the scores.

    >>> background_power(0.5)
    1.0
    """
    t = min(max(threshold, 0.01), 0.99)
    return math.log(t) / math.log1p(-t)


def with_background(scores: Tensor, alpha: float) -> Tensor:
    """Return (K + 1, H, W): the background score (1 - best)^alpha, then `scores` (K, H, W), both in [0, 1]."""
    return torch.cat([(1.0 - scores.amax(0, keepdim=True)).clamp(min=0) ** alpha, scores])


def without_background(stack: Tensor) -> Tensor:
    """Return (K, H, W) in [0, 1], each class against the background: k / (k + background), of (K + 1, H, W) >= 0.

    The class that was strongest stays strongest, and at the threshold 1/2 the decision is the argmax of the stack;
    another threshold weighs the background by another factor. 0 where neither scores.
    """
    background, classes = stack[:1], stack[1:]
    total = classes + background
    return torch.where(total > 0, classes / total.where(total > 0, 1.0), 0.0)
