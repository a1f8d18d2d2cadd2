"""Class scores of one image as another one shows them, warped through depth, and how well two images fit."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from deal_core.structures import Float32Array, Float64Array
from deal_core.taps.carry import View, depth_tolerance, places_in

_LEAST_SHARED = 0.02
"""Share of the image below which two views have too little in common to judge their poses."""
LEAST_AGREEMENT = 0.6
"""Share of the pixels that two views can compare that agree, if their poses are right."""


class Agreement(NamedTuple):
    """How well the depth of two views agrees.

    Attributes:
        compared: share of the target's pixels that lie in the source at a place with measured depth.
        agreeing: share of these whose depths agree.
    """

    compared: float
    agreeing: float

    @property
    def is_wrong(self) -> bool:
        """Whether the poses or the intrinsics cannot be right: enough is compared, and too little of it agrees."""
        return self.compared >= _LEAST_SHARED and self.agreeing < LEAST_AGREEMENT


def agreement(source: View, target: View) -> Agreement:
    """Return how well the depth of two views agrees, by the measured pixels of both.

    What one view hides from the other disagrees, too: of right poses, some of the pixels always do.

    Raises:
        CameraModelError: the lens of a camera cannot be inverted.
    """
    columns, rows, distance, hits = places_in(source, target)
    x, y = columns[hits], rows[hits]
    both = target.measured[hits] & source.measured[y, x]
    differences = np.abs(source.depth[y, x] - distance[hits])[both]
    same = int((differences <= depth_tolerance(distance[hits][both])).sum())
    return Agreement(float(both.sum()) / hits.size, same / max(int(both.sum()), 1))


def warp_scores(scores: Float32Array, source: View, target: View) -> tuple[Float32Array, Float64Array]:
    """Return the scores of the source at the pixels of the target, and the weight of each pixel.

    Each pixel of the target asks the source what it says about the same point (a z-test): if the depths there differ by
    more than the tolerance, another surface is in between, and the weight is 0. Otherwise it falls with the difference,
    as a normal distribution that is at two standard deviations there.

    Args:
        scores: (K, H, W) of the source, in [0, 1].
        source: View to take from.
        target: View to fill.

    Returns:
        (K, H, W) float32 scores, interpolated between the source's pixels, and (H, W) weights in [0, 1].

    Raises:
        CameraModelError: the lens of a camera cannot be inverted.
    """
    columns, rows, distance, hits = places_in(source, target)
    x, y = np.where(hits, columns, 0), np.where(hits, rows, 0)
    difference = np.abs(source.depth[y, x] - distance) / (depth_tolerance(distance) / 2)
    weights = np.where(hits & source.known[y, x] & (difference <= 2), np.exp(-0.5 * difference**2), 0.0)
    warped = np.stack([cv2.remap(one, x.astype(np.float32), y.astype(np.float32), cv2.INTER_NEAREST) for one in scores])
    return np.where(weights > 0, warped, 0).astype(np.float32), weights
