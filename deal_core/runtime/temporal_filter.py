"""A temporal filter of class scores: the last scores, moved to where their surfaces are now, against flicker.

Depth gives each score a point in space, and the pose of the camera tells where the camera saw this point in the last
image. There the filter looks up the last, filtered scores, and adds them to the current ones. A point that the last
image does not show, because another surface was in front of it or it lay outside, keeps its current scores, and so does
a point without depth: things that move or appear are not late. Where the scores of a surface change, the last ones
count less the larger the change is, so a class that the network sees clearly from now on is at most one image late.

Example:
    >>> camera = CameraIntrinsics(width=4, height=2, fx=2.0, fy=2.0, cx=1.5, cy=0.5)
    >>> view = View(np.ones((2, 4), np.float32), camera, np.eye(4), stamp_ns=0)
    >>> filter = TemporalFilter(weight=0.5)
    >>> _ = filter(np.zeros((1, 1, 2), np.float32), view)
    >>> filter(np.ones((1, 1, 2), np.float32), view).tolist()
    [[[0.75, 0.75]]]
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from deal_core.errors import UsageError
from deal_core.runtime.camera_rays import Float64Array, pixel_rays, project
from deal_core.structures import BoolArray, CameraIntrinsics, Float32Array, valid_depth

_DEPTH_TOLERANCE = 0.05
"""Difference of two depths of one point, as a share of the depth, above which they are of different surfaces."""
_YIELD = 0.5
"""Share by which the weight falls where a score changes from 0 to 1."""
_LONGEST_GAP_NS = 1_000_000_000


@dataclass(frozen=True, eq=False)
class View:
    """From where an image was taken, and how far away what it shows is.

    Args:
        depth: (H, W) float32 metres, 0 or nan where unknown.
        camera: Intrinsics of the image.
        pose: (4, 4) from the optical frame of the camera to a frame that does not move.
        stamp_ns: Time of the image, nanoseconds.
    """

    depth: Float32Array
    camera: CameraIntrinsics
    pose: Float64Array
    stamp_ns: int


class TemporalFilter:
    """Mix the scores of each image with those of the images before it.

    Args:
        weight: Weight of the last scores where they equal the new ones, in [0, 1). It falls to half of it where a score
            changes from 0 to 1.

    Raises:
        UsageError: the weight is out of range.
    """

    def __init__(self, weight: float) -> None:
        if not 0 <= weight < 1:
            raise UsageError(f"expected a weight of the last scores of at least 0 and below 1, found {weight:g}")
        self.weight = weight
        self._last: tuple[Float32Array, View] | None = None

    def reset(self) -> None:
        """Forget the last scores."""
        self._last = None

    def __call__(self, scores: Float32Array, view: View) -> Float32Array:
        """Return the filtered scores (K, h, w), and remember them.

        The last scores are not used if they are from another camera or model, from a later image, or older than 1 s.

        Args:
            scores: (K, h, w) scores in [0, 1] of the image.
            view: Depth and pose of the image.

        Raises:
            CameraModelError: the distortion of the camera is unknown or cannot be inverted.
        """
        if self._last is not None and _fits(self._last, scores, view):
            scores = _mixed(scores, view, *self._last, np.float32(self.weight))
        self._last = scores, view
        return scores


def _fits(last: tuple[Float32Array, View], scores: Float32Array, view: View) -> bool:
    before, last_view = last
    is_near = 0 <= view.stamp_ns - last_view.stamp_ns <= _LONGEST_GAP_NS
    return is_near and before.shape == scores.shape and last_view.camera == view.camera


def _mixed(scores: Float32Array, view: View, before: Float32Array, last_view: View, weight: np.float32) -> Float32Array:
    """Return scores mixed with the last ones, which were seen from `last_view`."""
    places, is_seen = _places_in_last(scores.shape[1:], view, last_view)
    change = np.zeros_like(scores)
    for difference, now, past in zip(change, scores, before, strict=True):
        if now.any() or past.any():
            moved = cv2.remap(past, places[0], places[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            np.subtract(moved, now, out=difference)
    share = np.where(is_seen, weight * (1 - np.float32(_YIELD) * np.abs(change).max(0)), np.float32(0))
    return scores + share * change


def _places_in_last(shape: tuple[int, ...], view: View, last_view: View) -> tuple[Float32Array, BoolArray]:
    """Return where each score's point lay among the last scores, (2, h, w) columns and rows, and if it was seen."""
    camera = view.camera
    rows, columns = (_pixels_of(points, pixels) for points, pixels in zip(shape, view.depth.shape, strict=True))
    whole_rows, whole_columns = (np.rint(places).astype(np.intp) for places in (rows, columns))
    here = np.ix_(whole_rows, whole_columns)
    depth = view.depth[here].astype(np.float64)
    right, down = (ray[here] for ray in pixel_rays(camera))
    points = np.stack([right * depth, down * depth, depth, np.ones_like(depth)], axis=-1)
    moved = points @ (np.linalg.inv(last_view.pose) @ view.pose).T
    is_seen = valid_depth(depth) & (moved[..., 2] > 0)
    moved[~is_seen] = (0, 0, 1, 1)
    pixels = project(moved[..., :2] / moved[..., 2:3], camera)
    column, row = (np.rint(pixels[..., axis]) for axis in (0, 1))
    is_seen &= (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    column, row = (np.where(is_seen, place, 0).astype(np.intp) for place in (column, row))
    found = last_view.depth[row, column]
    is_seen &= np.abs(found - moved[..., 2]) <= _DEPTH_TOLERANCE * moved[..., 2]  # nan fails
    # A score may lie between pixels: it moves as the pixel next to it does.
    across = pixels[..., 0] + columns - whole_columns
    along = pixels[..., 1] + (rows - whole_rows)[:, None]
    places = [(across + 0.5) * shape[1] / camera.width - 0.5, (along + 0.5) * shape[0] / camera.height - 0.5]
    return np.stack(places).astype(np.float32), is_seen


def _pixels_of(points: int, pixels: int) -> Float64Array:
    """Return the place of each score along one side, in pixels."""
    return ((np.arange(points) + 0.5) * pixels / points - 0.5).clip(0, pixels - 1)
