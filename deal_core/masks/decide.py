"""From class scores at a network's stride to a mask and its confidence at the size of the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.structures import BACKGROUND, UNLABELLED, Float32Array, Float64Array, Int64Array, UInt8Array

if TYPE_CHECKING:
    from deal_core.structures import Array


def decide(
    scores: Float32Array, size: tuple[int, int], threshold: float, *, relative: bool = True
) -> tuple[UInt8Array, Float32Array]:
    """Return the mask (H, W) of class ids, 0 is background, and the confidence (H, W) in [0, 1] in it.

    Scores are brought to full size bilinearly, relative ones are divided by the maximum of their map there, the largest
    wins (the first of equals), and what does not exceed the threshold is background, with a confidence of 1 - score.

    Classes whose score is 0 everywhere, which are most, cost nothing; each of the others a few passes over the image,
    in numpy and OpenCV, whose loops are faster here than PyTorch's.

    Args:
        scores: (K, h, w) in [0, 1], finite.
        size: (H, W).
        threshold: of the background.
        relative: whether scores are relative to the largest of their map, as CAMs are.
    """
    height, width = size
    top = np.zeros(size, np.float32)
    mask = np.zeros(size, np.uint8)
    found = False
    for index, score in enumerate(scores):
        if not score.any():
            continue
        full = cv2.resize(score, (width, height), interpolation=cv2.INTER_LINEAR)
        if relative:
            peak = full.max()
            if not peak > 0:
                continue
            full /= peak
        if not found:
            top, found = full, True
            mask.fill(index + 1)
            continue
        better = full > top
        # Ids grow, so the larger of the two is that of the later class where it is better.
        np.maximum(mask, better.view(np.uint8) * np.uint8(index + 1), out=mask)
        np.maximum(top, full, out=top)
    foreground = top > np.float32(threshold)
    mask *= foreground.view(np.uint8)
    # 1 - top where background, top elsewhere: |background - top|, without a branch.
    confidence = np.subtract(~foreground, top, dtype=np.float32)
    return mask, np.abs(confidence, out=confidence)


_SCORE_SLACK = 1e-4


def threshold_grid(bins: int = 100) -> Float64Array:
    """Return the `bins + 1` background thresholds 0, 1/bins, ..., 1 that sweeps and rules share."""
    if bins < 1:
        raise ValueError(f"expected at least 1 bin, found {bins}")
    return np.arange(bins + 1, dtype=np.float64) / bins


def threshold_bins(scores: npt.NDArray[Any], thresholds: Float64Array) -> npt.NDArray[np.int64]:
    """Return for each score how many thresholds lie strictly below it.

    A score of bin `b` is foreground at exactly the thresholds 0 .. b - 1: background wins the tie.
    """
    return np.searchsorted(thresholds, scores, side="left").astype(np.int64, copy=False)


def winning_class(scores: Array, tags: Array | None = None) -> tuple[npt.NDArray[Any], UInt8Array]:
    """Return the highest score of a present class and that class's mask id, per pixel.

    Args:
        scores: (K, H, W) in [0, 1].
        tags: (K,) where 1 marks the classes that may be predicted; absent (0) and unknown (nan) ones may not.
            None lets all compete.

    Returns:
        (H, W) scores and (H, W) uint8 ids 1..K. The lowest id wins a tie. With no present class the scores are 0,
        so that every threshold makes the image background.

    Raises:
        ValueError: another shape, or scores that are not in [0, 1].
    """
    values = checked_scores(scores)
    present = _present(tags, len(values))
    if not len(present):
        return np.zeros(values.shape[1:], values.dtype), np.ones(values.shape[1:], np.uint8)
    chosen = values if len(present) == len(values) else values[present]
    ids = (present + 1).astype(np.uint8)
    return chosen.max(axis=0), ids[chosen.argmax(axis=0)]


def predict_mask(scores: Array, tags: Array | None, threshold: float) -> UInt8Array:
    """Return the (H, W) uint8 mask: the winning class where its score is above `threshold`, else background.

    Args:
        scores: (K, H, W) in [0, 1].
        tags: (K,) as in `winning_class`, or None.
        threshold: background score, in [0, 1].
    """
    best, ids = winning_class(scores, tags)
    # Compared in float64 like the sweep's bins: in float32 the threshold itself would be rounded first.
    return np.where(best.astype(np.float64) > threshold, ids, np.uint8(BACKGROUND))


def to_numpy(array: Array) -> npt.NDArray[Any]:
    """Return a numpy view or copy of a numpy array or torch tensor; half-precision floats become float32."""
    if isinstance(array, np.ndarray):
        values = array
    else:
        tensor = array.detach().cpu()
        # numpy knows no bfloat16; widening to float32 keeps every value.
        values = (tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor).numpy()
    return values.astype(np.float32) if values.dtype == np.float16 else values


def checked_scores(scores: Array) -> npt.NDArray[Any]:
    """Return scores as (K, H, W) numpy floats, clipped to [0, 1].

    Raises:
        ValueError: another shape or type, nan, or beyond [0, 1] by more than rounding explains.
    """
    values = to_numpy(scores)
    if values.ndim != 3 or 0 in values.shape or values.dtype.kind != "f":
        raise ValueError(f"expected float scores of shape (K, H, W), found {values.dtype} {values.shape}")
    low, high = float(values.min()), float(values.max())
    if not (low >= -_SCORE_SLACK and high <= 1 + _SCORE_SLACK):
        raise ValueError(f"expected scores in [0, 1], found {low:g} to {high:g}")
    return values if low >= 0 and high <= 1 else values.clip(0, 1)


def _present(tags: Array | None, num_classes: int) -> Int64Array:
    """Return the indices of the classes that may be predicted."""
    if tags is None:
        return np.arange(num_classes)
    values = to_numpy(tags)
    if values.shape != (num_classes,):
        raise ValueError(f"expected tags of shape ({num_classes},), found {values.shape}")
    return np.flatnonzero(values == 1)


IgnoreBand = tuple[float, float]
"""Thresholds (low, high): up to low a pixel is background, above high of the class, between them of nobody."""


def pseudo_mask(scores: Float32Array, tags: Float32Array | None, band: IgnoreBand) -> UInt8Array:
    """Return the (H, W) uint8 mask of scores (K, H, W): background, class ids, and 255 between the two thresholds."""
    low, high = band
    mask = predict_mask(scores, tags, high)
    best = winning_class(scores, tags)[0].astype(np.float64)
    return np.where((mask == BACKGROUND) & (best > low), np.uint8(UNLABELLED), mask)
