"""Masks from class scores: all functions that decide the class of a pixel.

- `decide` is for the robot: scores at the network's stride become a full-size mask with its confidence;
  `deal_core.masks.fast_mask` makes the mask alone, which is faster.
- `predict_mask` is for evaluation and drawing: the scores have the size of the image, and tags may limit the classes.
- `pseudo_mask` is for training masks: pixels between two thresholds stay unlabelled (255).
- `strongest_channel` is for the training of a segmenter: its logits, background included, stay on their device.

All functions break ties alike: among equal scores the lowest class id wins, and a score equal to the threshold is
background. The threshold is first rounded to the type of the scores, as the published evaluations of WeakTr and SEAM
do: the float32 score 51 / 255 of an 8-bit map equals the threshold 0.2, although it is a little larger than 1 / 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.structures import BACKGROUND, UNLABELLED, BoolArray, Float32Array, Float64Array, Int64Array, UInt8Array

if TYPE_CHECKING:
    from torch import Tensor

    from deal_core.structures import Array

IgnoreBand = tuple[float, float]
"""Thresholds (low, high): scores up to low are background, scores above high the class, all others unlabelled."""


def decide(
    scores: Float32Array, size: tuple[int, int], threshold: float, *, relative: bool = True
) -> tuple[UInt8Array, Float32Array]:
    """Return the mask (H, W) of class ids, with 0 for background, and its confidence (H, W) in [0, 1].

    Scores are resized bilinearly to full size; relative scores are then divided by the maximum of their map. The
    confidence of a class is its score, and the confidence of the background is 1 - score.

    Classes with a score of 0 everywhere, usually most classes, take no time. Every other class takes a few passes over
    the image in numpy and OpenCV, which are faster here than PyTorch.

    Args:
        scores: (K, h, w) finite scores in [0, 1].
        size: (H, W) of the mask.
        threshold: Background threshold in [0, 1].
        relative: Whether scores are relative to the maximum of their map, as for CAMs.
    """
    top, mask = _strongest(_full_size_maps(scores, size, relative), size)
    foreground = _exceeds(top, threshold)
    mask *= foreground.view(np.uint8)
    # 1 - top where background, top elsewhere: |background - top|, without a branch.
    confidence = np.subtract(~foreground, top, dtype=np.float32)
    return mask, np.abs(confidence, out=confidence)


def predict_mask(scores: Array, tags: Array | None, threshold: float) -> UInt8Array:
    """Return the (H, W) uint8 mask: the winning class where its score is above `threshold`, else background.

    Arguments and errors are as in `winning_class`; `threshold` is in [0, 1].
    """
    best, ids = winning_class(scores, tags)
    return np.where(_exceeds(best, threshold), ids, np.uint8(BACKGROUND))


def pseudo_mask(scores: Array, tags: Array | None, band: IgnoreBand) -> UInt8Array:
    """Return the (H, W) uint8 mask of class ids, with 0 for background and 255 for scores between two thresholds.

    Arguments and errors are as in `winning_class`; the thresholds of `band` are in [0, 1] and do not decrease. With two
    equal thresholds, the result is that of `predict_mask`.
    """
    low, high = band
    best, ids = winning_class(scores, tags)
    undecided = np.where(_exceeds(best, low), np.uint8(UNLABELLED), np.uint8(BACKGROUND))
    return np.where(_exceeds(best, high), ids, undecided)


def strongest_channel(logits: Tensor) -> Tensor:
    """Return the ids (B, H, W) of the largest logits (B, K + 1, H, W), background first; the lowest id wins a tie.

    The result agrees with `predict_mask` for the scores of a segmenter at the threshold 1/2.
    """
    return logits.argmax(1)


def winning_class(scores: Array, tags: Array | None = None) -> tuple[npt.NDArray[Any], UInt8Array]:
    """Return the highest score of a present class and the mask id of this class, per pixel.

    Args:
        scores: (K, H, W) scores in [0, 1].
        tags: (K,) with 1 for the classes that may be predicted; 0 marks absent and nan unknown classes. None allows all
            classes.

    Returns:
        (H, W) scores and (H, W) uint8 ids 1..K. The lowest id wins a tie. Without any present class, all scores are 0,
        so every threshold makes the whole image background.

    Raises:
        ValueError: the shape is another, or scores lie outside [0, 1].
    """
    values = checked_scores(scores)
    maps = ((k + 1, values[k].copy()) for k in _present(tags, len(values)))
    return _strongest(maps, values.shape[1:], values.dtype)


def threshold_grid(bins: int = 100) -> Float64Array:
    """Return the `bins + 1` background thresholds 0, 1/bins, ..., 1 of sweeps and rules."""
    if bins < 1:
        raise ValueError(f"expected at least 1 bin, found {bins}")
    return np.arange(bins + 1, dtype=np.float64) / bins


def threshold_bins(scores: npt.NDArray[Any], thresholds: Float64Array) -> npt.NDArray[np.int64]:
    """Return the number of thresholds strictly below each score, both in the type of the scores.

    A score in bin `b` is foreground exactly at the thresholds 0 .. b - 1: background wins a tie.
    """
    return np.searchsorted(thresholds.astype(scores.dtype), scores, side="left").astype(np.int64, copy=False)


def to_numpy(array: Array) -> npt.NDArray[Any]:
    """Return a numpy view or copy of a numpy array or torch tensor; half-precision floats become float32."""
    if isinstance(array, np.ndarray):
        values = array
    else:
        tensor = array.detach().cpu()
        # numpy has no bfloat16; float32 represents all its values exactly.
        values = (tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor).numpy()
    return values.astype(np.float32) if values.dtype == np.float16 else values


_SCORE_SLACK = 1e-4


def checked_scores(scores: Array) -> npt.NDArray[Any]:
    """Return scores (K, H, W) clipped to [0, 1]; raise `ValueError` unless they are floats in [0, 1] up to rounding."""
    values = to_numpy(scores)
    if values.ndim != 3 or 0 in values.shape or values.dtype.kind != "f":
        raise ValueError(f"expected float scores of shape (K, H, W), found {values.dtype} {values.shape}")
    low, high = float(values.min()), float(values.max())
    if not (low >= -_SCORE_SLACK and high <= 1 + _SCORE_SLACK):
        raise ValueError(f"expected scores in [0, 1], found {low:g} to {high:g}")
    return values if low >= 0 and high <= 1 else values.clip(0, 1)


def _strongest(
    maps: Iterable[tuple[int, npt.NDArray[Any]]], size: tuple[int, ...], kind: npt.DTypeLike = np.float32
) -> tuple[npt.NDArray[Any], UInt8Array]:
    """Return the highest score and its class id, per pixel; without any map, the score 0 and the id 1.

    Args:
        maps: Increasing class ids, each with its scores (H, W); the first array is overwritten.
        size: (H, W) of the maps.
        kind: Type of the scores.
    """
    top, ids, found = np.zeros(size, kind), np.ones(size, np.uint8), False
    for class_id, scores in maps:
        if not found:
            top, found = scores, True
            ids.fill(class_id)
            continue
        better = scores > top
        # Ids increase, so the maximum is the id of the later class where this class is better.
        np.maximum(ids, better.view(np.uint8) * np.uint8(class_id), out=ids)
        np.maximum(top, scores, out=top)
    return top, ids


def _exceeds(scores: npt.NDArray[Any], threshold: float) -> BoolArray:
    """Return the mask of scores above a threshold, compared in the type of the scores."""
    above: BoolArray = scores > scores.dtype.type(threshold)
    return above


def _full_size_maps(
    scores: Float32Array, size: tuple[int, int], relative: bool
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield the id and the map (H, W) of each class with a score above 0."""
    height, width = size
    for class_id, score in enumerate(scores, 1):
        if not score.any():
            continue
        full = cv2.resize(score, (width, height), interpolation=cv2.INTER_LINEAR)
        if relative:
            peak = full.max()
            if not peak > 0:
                continue
            full /= peak
        yield class_id, full


def _present(tags: Array | None, num_classes: int) -> Int64Array:
    """Return the indices of the classes that may be predicted."""
    if tags is None:
        return np.arange(num_classes)
    values = to_numpy(tags)
    if values.shape != (num_classes,):
        raise ValueError(f"expected tags of shape ({num_classes},), found {values.shape}")
    return np.flatnonzero(values == 1)
