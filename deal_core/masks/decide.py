"""From class scores to a mask: every way the project decides which class a pixel belongs to.

- `decide` is right on the robot: scores at the network's stride become a full-size mask with its confidence, fast.
- `predict_mask` is right where one frame is evaluated or drawn: the scores have the image's size already, and tags may
  limit which classes compete.
- `pseudo_mask` is right for masks to train on: pixels between two thresholds stay unlabelled (255).
- `strongest_channel` is right while a segmenter trains: its logits, with background as a channel, stay on their device.

All ways break ties alike: of equal scores the lowest class id wins, and a score equal to the threshold is background.
All compare a score with the threshold as exact real numbers, whatever the type of the scores.
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
"""Thresholds (low, high): a score up to low is background, one above high is the class, any other is unlabelled."""


def decide(
    scores: Float32Array, size: tuple[int, int], threshold: float, *, relative: bool = True
) -> tuple[UInt8Array, Float32Array]:
    """Return the mask (H, W) of class ids, 0 is background, and the confidence (H, W) in [0, 1] in it.

    Scores are resized bilinearly to full size. Relative scores are then divided by the maximum of their map. The
    confidence of a class is its score; that of the background is 1 - score.

    A class whose score is 0 everywhere costs nothing, and most classes are such. Every other class costs a few passes
    over the image in numpy and OpenCV, whose loops are faster here than PyTorch's.

    Args:
        scores: (K, h, w) in [0, 1], finite.
        size: (H, W).
        threshold: of the background, in [0, 1].
        relative: whether scores are relative to the largest of their map, as CAMs are.
    """
    top, mask = _strongest(_full_size_maps(scores, size, relative), size)
    foreground = _exceeds(top, threshold)
    mask *= foreground.view(np.uint8)
    # 1 - top where background, top elsewhere: |background - top|, without a branch.
    confidence = np.subtract(~foreground, top, dtype=np.float32)
    return mask, np.abs(confidence, out=confidence)


def predict_mask(scores: Array, tags: Array | None, threshold: float) -> UInt8Array:
    """Return the (H, W) uint8 mask: the winning class where its score is above `threshold`, else background.

    Args:
        scores: (K, H, W) in [0, 1].
        tags: (K,) as in `winning_class`, or None.
        threshold: of the background, in [0, 1].

    Raises:
        ValueError: as `winning_class`.
    """
    best, ids = winning_class(scores, tags)
    return np.where(_exceeds(best, threshold), ids, np.uint8(BACKGROUND))


def pseudo_mask(scores: Array, tags: Array | None, band: IgnoreBand) -> UInt8Array:
    """Return the (H, W) uint8 mask of class ids, with 0 for background and 255 for what lies between two thresholds.

    Args:
        scores: (K, H, W) in [0, 1].
        tags: (K,) as in `winning_class`, or None.
        band: the two thresholds, in [0, 1] and not falling; where they are equal, this is `predict_mask`.

    Raises:
        ValueError: as `winning_class`.
    """
    low, high = band
    best, ids = winning_class(scores, tags)
    undecided = np.where(_exceeds(best, low), np.uint8(UNLABELLED), np.uint8(BACKGROUND))
    return np.where(_exceeds(best, high), ids, undecided)


def strongest_channel(logits: Tensor) -> Tensor:
    """Return the ids (B, H, W) of the largest logits, on their device; the lowest id wins a tie.

    Agrees with `predict_mask` of a segmenter's scores at the threshold 1/2: a class that ties with the background
    loses.

    Args:
        logits: (B, K + 1, H, W), background first.
    """
    return logits.argmax(1)


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
    maps = ((k + 1, values[k].copy()) for k in _present(tags, len(values)))
    return _strongest(maps, values.shape[1:], values.dtype)


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


def to_numpy(array: Array) -> npt.NDArray[Any]:
    """Return a numpy view or copy of a numpy array or torch tensor; half-precision floats become float32."""
    if isinstance(array, np.ndarray):
        values = array
    else:
        tensor = array.detach().cpu()
        # numpy knows no bfloat16; widening to float32 keeps every value.
        values = (tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor).numpy()
    return values.astype(np.float32) if values.dtype == np.float16 else values


_SCORE_SLACK = 1e-4


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


def _strongest(
    maps: Iterable[tuple[int, npt.NDArray[Any]]], size: tuple[int, ...], kind: npt.DTypeLike = np.float32
) -> tuple[npt.NDArray[Any], UInt8Array]:
    """Return the highest score and its class id, per pixel; without a map the score 0 and the id 1.

    Args:
        maps: class ids, rising, each with its scores (H, W), of which the first array is written over.
        size: (H, W).
        kind: type of the scores.
    """
    top, ids, found = np.zeros(size, kind), np.ones(size, np.uint8), False
    for class_id, scores in maps:
        if not found:
            top, found = scores, True
            ids.fill(class_id)
            continue
        better = scores > top
        # Ids rise, so the larger of the two ids is that of the later class where that class is better.
        np.maximum(ids, better.view(np.uint8) * np.uint8(class_id), out=ids)
        np.maximum(top, scores, out=top)
    return top, ids


def _exceeds(scores: npt.NDArray[Any], threshold: float) -> BoolArray:
    """Return where scores are above a threshold, as exact real numbers.

    A score is above the threshold exactly where it is above the largest number of its own type that is not above the
    threshold. So float32 scores need no copy in float64.
    """
    bound = scores.dtype.type(threshold)
    if float(bound) > threshold:
        bound = np.nextafter(bound, scores.dtype.type(-np.inf))
    above: BoolArray = scores > bound
    return above


def _full_size_maps(
    scores: Float32Array, size: tuple[int, int], relative: bool
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield class id and map (H, W) of each class whose score is not 0 everywhere."""
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
