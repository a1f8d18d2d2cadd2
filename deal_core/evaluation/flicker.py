"""Flicker of masks: how often a point of the scene changes its predicted class although its true class stays the same.

Optical flow tells which pixel of the last image shows the same point, so that neither the camera's motion nor that of a
thing counts as flicker, as in the temporal consistency of Liu et al., "Efficient Semantic Video Segmentation with
Per-frame Inference" (ECCV 2020).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from deal_core.dataset.dataset import FrameRecord
from deal_core.structures import UNLABELLED, BoolArray, Float32Array, UInt8Array

_SUCCESSIVE_NS = 1_000_000, 1_000_000_000
"""Least and largest time between two successive images of a recording; layouts without time number their images."""
_RETURNS_PX = 1.0
"""Largest distance between a pixel and the pixel that flow there and back leads to."""


@dataclass(frozen=True, eq=False)
class _Frame:
    record: FrameRecord
    gray: UInt8Array
    prediction: UInt8Array
    truth: UInt8Array


class Flicker:
    """Changes of the prediction between successive frames of a recording, where the truth does not change.

    Two frames are successive if none of the given frames lies between them, and at most 1 s. A pixel counts if optical
    flow from its frame to the last one and back returns to it, and its true class is the same in both. The figure
    depends on the rate of the frames: compare it over the same frames only.

    Args:
        frames: The frames that are compared, in the order of the updates.

    Attributes:
        is_possible: Whether any two of the frames may be successive; without, updates need not be made.
    """

    def __init__(self, frames: Iterable[FrameRecord]) -> None:
        self._records = {frame.key: frame for frame in frames}
        self.is_possible = any(_follows(one, other) for one, other in pairwise(self._records.values()))
        self._last: _Frame | None = None
        self._pixels = self._changed = 0

    def update(self, image: UInt8Array, prediction: UInt8Array, truth: UInt8Array, key: str) -> None:
        """Count one frame; frames of a recording must come in order.

        Args:
            image: (H, W, 3) uint8.
            prediction: (H, W) ids, 255 where undecided.
            truth: (H, W) ids, 255 where unlabelled.
            key: Key of the frame.
        """
        gray = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
        frame, last = _Frame(self._records[key], gray, prediction, truth), self._last
        self._last = frame
        if last is None or not _are_successive(last, frame):
            return
        places, is_same = _flow(last.gray, gray)
        before, true_before = (_moved(mask, places) for mask in (last.prediction, last.truth))
        is_same &= (truth == true_before) & (truth != UNLABELLED)
        self._pixels += np.count_nonzero(is_same)
        self._changed += np.count_nonzero(is_same & (prediction != before))

    def share(self) -> float | None:
        """Return the share of changed pixels; None without successive frames."""
        return self._changed / self._pixels if self._pixels else None


def _are_successive(one: _Frame, other: _Frame) -> bool:
    return one.truth.shape == other.truth.shape and _follows(one.record, other.record)


def _follows(before: FrameRecord, after: FrameRecord) -> bool:
    least, largest = _SUCCESSIVE_NS
    same = (before.recording, before.segment) == (after.recording, after.segment)
    return same and least <= after.stamp_ns - before.stamp_ns <= largest


def _flow(last: UInt8Array, now: UInt8Array) -> tuple[Float32Array, BoolArray]:
    """Return the places (H, W, 2), column and row, of all pixels in the last image, and which are reliable."""
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    rows, columns = np.indices(now.shape, np.float32)
    here = np.stack([columns, rows], axis=-1)
    places = here + method.calc(now, last, None)
    back = places + _moved(np.asarray(method.calc(last, now, None), np.float32), places)
    height, width = now.shape
    inside = ((places >= 0) & (places <= (width - 1, height - 1))).all(-1)
    return places, inside & (np.linalg.norm(back - here, axis=-1) <= _RETURNS_PX)


def _moved(values: np.ndarray, places: Float32Array) -> np.ndarray:
    """Return the values (H, W) or (H, W, C) at the nearest pixels to the places."""
    return cv2.remap(values, places[..., 0], places[..., 1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
