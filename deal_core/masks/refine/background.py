"""A background score next to the class scores, for refinements in which classes and background compete."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ARGMAX_THRESHOLD = 0.5
"""The threshold on `without_background` that gives a pixel to the stronger of class and background."""


def background_power(threshold: float) -> float:
    """Return the alpha at which a pixel with the best score `threshold` has the same background score.

    The background score is (1 - best)^alpha (Ahn and Kwak 2018); papers choose alpha by hand. With the alpha that
    solves (1 - t)^alpha = t, the decision before the refinement equals the threshold t, which a rule without masks
    adapts to the level of the scores.

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

    The strongest class stays the strongest, and at the threshold 1/2 the decision is the argmax of the stack. Another
    threshold corresponds to another weight of the background. The result is 0 where class and background are 0.
    """
    background, classes = stack[:1], stack[1:]
    total = classes + background
    return torch.where(total > 0, classes / total.where(total > 0, 1.0), 0.0)
