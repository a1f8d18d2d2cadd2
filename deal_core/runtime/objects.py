"""Objects of a mask in space: their positions and sizes, from one view with depth.

A class' pixels are cut where depth jumps, so that two mugs one behind the other are two objects; each connected
piece that is left is an object. How that is done, and what follows from it:

- Holes in depth do not cut: they take the nearest depth of their class for this question, and give no points.
- Depth jumps where a pixel's 5x5 neighbourhood spans more than `0.05 + 0.02 z^2` metres: 57 mm at 0.6 m, 70 mm at
  1 m, 230 mm at 3 m. Less would cut one mug into its front and its inside; the noise of stereo grows with the square
  of depth, and so does what a slanted plane spans. The smeared points between front and back ("flying pixels") are
  within that neighbourhood and go as well.
- Pieces narrower than five pixels are no objects: rims of a mask that spills over an edge by three to six pixels.
  One that spills farther gives pieces of what is behind; a larger `min_points` leaves them out.
- An object's bounds are the 2nd and 98th percentile of its points along each axis, after points far from the
  median depth are left out. Of an evenly seen surface, that is 4 % less than its extent.
- Only the side that the camera sees counts: the depth of a box seen from the front is that of its front.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from deal_core.runtime.camera_rays import measured, pixel_rays
from deal_core.structures import BACKGROUND, UNLABELLED, BoolArray, CameraIntrinsics, Float32Array

if TYPE_CHECKING:
    from deal_core.runtime.segmenter import Segmentation

Vector = tuple[float, float, float]

_STEP_M, _STEP_PER_M = 0.05, 0.02  # at z metres, depth that spans more than 0.05 + 0.02 z^2 metres jumps
_BOUNDS = (2, 98)
_BOUNDS_POINTS = 5000  # of a larger object, every n-th point tells the same
_OUTLIER_DEVIATIONS = 4.0
_DEVIATION_OF_MEDIAN = 1.4826  # of a normal distribution: its standard deviation by its median absolute deviation
_FAR = np.float32(1e6)  # metres; for infinity, of which one cannot take differences
_NEIGHBOURHOOD = np.ones((5, 5), np.uint8)  # smeared edges of depth are about as wide


@dataclass(frozen=True)
class PixelBox:
    """A rectangle of pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class SceneObject:
    """One connected thing of a class, as far as the camera sees it.

    Args:
        label: its class' id in the mask, 1..K.
        center: middle of its bounds, metres in the optical frame (z forward, x right, y down).
        size: extent of its bounds along x, y and z, metres.
        points: how many of its pixels have depth.
        confidence: mean over these pixels, 0..1.
        box: the pixels of the image that hold it.
    """

    label: int
    center: Vector
    size: Vector
    points: int
    confidence: float
    box: PixelBox


def find_objects(
    result: Segmentation,
    depth: Float32Array,
    camera: CameraIntrinsics,
    *,
    near_m: float = 0.0,
    far_m: float = np.inf,
    min_points: int = 50,
) -> tuple[SceneObject, ...]:
    """Return the objects of every class, by id and then by number of points, the largest first.

    Args:
        result: mask and confidence, (H, W).
        depth: (H, W) float32 metres along the optical axis, 0 or nan where unknown.
        camera: the lens of the colour image that depth is aligned to; H and W are its size.
        near_m: nearest depth used, metres.
        far_m: farthest depth used, metres.
        min_points: pixels with depth that make an object.

    Raises:
        CameraModelError: the lens cannot be undone.
    """
    rays = pixel_rays(camera)
    usable = measured(depth, near_m, far_m)
    found = []
    for label in np.flatnonzero(np.bincount(result.mask[usable], minlength=256) >= min_points).tolist():
        if label in (BACKGROUND, UNLABELLED):
            continue
        members = result.mask == label
        left, top, width, height = cv2.boundingRect(members.view(np.uint8))
        window = np.s_[top : top + height, left : left + width]
        of_class = usable[window] & members[window]
        body = _without_jumps(depth[window], members[window], of_class)
        for piece, box in _pieces(body, of_class, min_points):
            place = PixelBox(left + box.left, top + box.top, box.width, box.height)
            inside = np.s_[place.top : place.top + place.height, place.left : place.left + place.width]
            center, size = _bounds(rays[:, inside[0], inside[1]], depth[inside], piece)
            confidence = float(result.confidence[inside][piece].mean())
            found.append(SceneObject(label, center, size, int(piece.sum()), confidence, place))
    return tuple(sorted(found, key=lambda o: (o.label, -o.points)))


def _without_jumps(depth: Float32Array, members: BoolArray, of_class: BoolArray) -> BoolArray:
    """Return a class' pixels (`members`, some without depth) without those at jumps of depth and without thin rims."""
    filled = _filled(depth, members, of_class)
    low = cv2.erode(np.where(members, filled, _FAR), _NEIGHBOURHOOD)
    high = cv2.dilate(np.where(members, filled, -_FAR), _NEIGHBOURHOOD)
    smooth = members & (high - low <= _STEP_M + _STEP_PER_M * low**2)
    # The border is the window's, which ends with the class: beyond it is nothing, not more of the same.
    opened = cv2.morphologyEx(
        smooth.view(np.uint8), cv2.MORPH_OPEN, _NEIGHBOURHOOD, borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    return opened.view(np.bool_)


def _filled(depth: Float32Array, members: BoolArray, of_class: BoolArray) -> Float32Array:
    """Return depth where pixels of the class without it have that of the nearest pixel of the class with it."""
    holes = members & ~of_class
    if not holes.any():
        return depth
    _, nearest = cv2.distanceTransformWithLabels(
        (~of_class).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    depth_of = np.zeros(int(nearest.max()) + 1, np.float32)
    depth_of[nearest[of_class]] = depth[of_class]
    filled = depth.copy()
    filled[holes] = depth_of[nearest[holes]]
    return filled


def _pieces(body: BoolArray, of_class: BoolArray, min_points: int) -> Iterator[tuple[BoolArray, PixelBox]]:
    """Yield each connected piece with enough depth: its pixels with depth, within its box."""
    _, pieces, boxes, _ = cv2.connectedComponentsWithStats(body.view(np.uint8), connectivity=4)
    counts = np.bincount(pieces[of_class], minlength=len(boxes))
    counts[0] = 0  # what belongs to no piece
    for index in np.flatnonzero(counts >= min_points):
        left, top, width, height = boxes[index, :4].tolist()
        window = np.s_[top : top + height, left : left + width]
        yield (pieces[window] == index) & of_class[window], PixelBox(left, top, width, height)


def _bounds(rays: Float32Array, depth: Float32Array, piece: BoolArray) -> tuple[Vector, Vector]:
    """Return centre and size of the points of the True pixels, untroubled by a few that are far off."""
    taken = np.flatnonzero(piece)
    taken = taken[:: max(1, len(taken) // _BOUNDS_POINTS)]
    z = depth.ravel()[taken]
    middle = np.median(z)
    away = np.abs(z - middle)
    tolerance = _OUTLIER_DEVIATIONS * _DEVIATION_OF_MEDIAN * np.median(away) + _STEP_M + _STEP_PER_M * middle**2
    near = away <= tolerance
    taken, z = taken[near], z[near]
    x, y = (ray.ravel()[taken] * z for ray in rays)
    low, high = np.percentile([x, y, z], _BOUNDS, axis=1)
    return tuple(((low + high) / 2).tolist()), tuple((high - low).tolist())
