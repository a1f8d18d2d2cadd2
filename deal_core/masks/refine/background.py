"""A background score next to the class scores, for refinements in which classes and background compete."""

from __future__ import annotations

import torch
from torch import Tensor

ARGMAX_THRESHOLD = 0.5
"""The threshold on `without_background` that gives a pixel to the stronger of class and background."""

_SMALLEST_THRESHOLD = 0.05


def bounded(threshold: float) -> float:
    """Return the threshold within [0.05, 0.95]: at the ends of its range everything, or nothing, is background."""
    return min(max(threshold, _SMALLEST_THRESHOLD), 1.0 - _SMALLEST_THRESHOLD)


def with_background(scores: Tensor, threshold: float, alpha: float | None = None) -> Tensor:
    """Return (K + 1, H, W): a background score, then the class scores, all in [0, 1].

    Papers take the background (1 - best)^alpha and choose alpha by hand (Ahn and Kwak 2018). Without alpha, the odds of
    the strongest class against the background are those of its score b against the threshold t, b (1 - t) : t (1 - b).
    So the background equals the strongest class where b = t, for every t in [0.05, 0.95].

    Args:
        scores: (K, H, W) in [0, 1].
        threshold: Threshold t of the scores.
        alpha: Exponent of the published background; it replaces the threshold.
    """
    best = scores.amax(0, keepdim=True)
    if alpha is not None:
        return torch.cat([(1.0 - best).clamp(min=0) ** alpha, scores])
    t = bounded(threshold)
    for_class, for_background = best * (1.0 - t), t * (1.0 - best).clamp(min=0)
    foreground = for_class / (for_class + for_background)
    shares = scores / best.where(best > 0, 1.0)
    return torch.cat([1.0 - foreground, shares * foreground])


def without_background(stack: Tensor) -> Tensor:
    """Return (K, H, W) in [0, 1] from scores (K + 1, H, W) >= 0, the background first.

    The strongest class c of a pixel gets c / (c + background), and every other class its share of that. So classes keep
    their order and their ratios, however weak the background is, and only equal classes tie. At the threshold 1/2 the
    decision is the argmax of the stack. The result is 0 where class and background are 0.
    """
    background, classes = stack[:1], stack[1:]
    strongest = classes.amax(0, keepdim=True)
    total = strongest + background
    foreground = torch.where(total > 0, strongest / total.where(total > 0, 1.0), 0.0)
    return classes / strongest.where(strongest > 0, 1.0) * foreground
