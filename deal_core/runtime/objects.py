"""Positions and sizes of the objects of a mask in space, from one view with depth.

The pixels of a class are split at depth jumps, so that two mugs one behind the other are two objects. Each remaining
connected piece is an object:

- Holes in depth do not split objects: they take the nearest depth of their class here, and give no points.
- Depth jumps where the 5x5 neighbourhood of a pixel spans more than `0.05 + 0.02 z^2` metres: 57 mm at 0.6 m, 70 mm at
  1 m, 230 mm at 3 m. A smaller value would split a mug into its outside and inside. The noise of stereo and the span of
  a slanted plane grow with the square of depth. Flying pixels between front and back are removed as well.
- Pieces narrower than five pixels are no objects: they are rims of masks that exceed an edge by three to six pixels.
  Masks that exceed an edge farther give pieces of the background; a larger `min_points` removes them.
- The bounds of an object are the 2nd and 98th percentile of its points along each axis, without points far from the
  median depth. For an evenly sampled surface, they are 4 % smaller than its extent.
- Bounds cover only the visible side: the depth of a box seen from the front is the depth of its front.
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

_STEP_M, _STEP_PER_M = 0.05, 0.02  # depth jumps if it spans more than 0.05 + 0.02 z^2 metres
_BOUNDS = (2, 98)
_BOUNDS_POINTS = 5000  # larger objects are subsampled
_OUTLIER_DEVIATIONS = 4.0
_DEVIATION_OF_MEDIAN = 1.4826  # standard deviation / median absolute deviation of a normal distribution
_FAR = np.float32(1e6)  # metres; replaces infinity, which has no differences
_NEIGHBOURHOOD = np.ones((5, 5), np.uint8)  # about the width of smeared depth edges


@dataclass(frozen=True)
class PixelBox:
    """A rectangle of pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class SceneObject:
    """The visible part of one connected object of a class.

    Args:
        label: Mask id of the class, 1..K.
        center: Centre of the bounds, in metres in the optical frame (z forward, x right, y down).
        size: Extent of the bounds along x, y and z, in metres.
        points: Number of pixels with depth.
        confidence: Mean confidence over these pixels, in [0, 1].
        box: Bounding box of the pixels in the image.
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
    """Return the objects of all classes, ordered by id and then by decreasing number of points.

    Args:
        result: Mask and confidence, (H, W).
        depth: (H, W) float32 metres along the optical axis, 0 or nan where unknown.
        camera: Camera of the colour image, to which depth is aligned; its size is H and W.
        near_m: Smallest depth, in metres.
        far_m: Largest depth, in metres.
        min_points: Smallest number of pixels with depth of an object.

    Raises:
        CameraModelError: the distortion of the lens cannot be inverted.
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
    """Return the pixels of a class (`members`, some without depth) without depth jumps and thin rims."""
    filled = _filled(depth, members, of_class)
    low = cv2.erode(np.where(members, filled, _FAR), _NEIGHBOURHOOD)
    high = cv2.dilate(np.where(members, filled, -_FAR), _NEIGHBOURHOOD)
    smooth = members & (high - low <= _STEP_M + _STEP_PER_M * low**2)
    # The window ends with the class, so pixels beyond its border do not belong to the class.
    opened = cv2.morphologyEx(
        smooth.view(np.uint8), cv2.MORPH_OPEN, _NEIGHBOURHOOD, borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    return opened.view(np.bool_)


def _filled(depth: Float32Array, members: BoolArray, of_class: BoolArray) -> Float32Array:
    """Return the depth, with holes of the class filled by the depth of the nearest pixel of the class."""
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
    """Yield the pixels with depth, and the box, of each connected piece with at least `min_points` of them."""
    _, pieces, boxes, _ = cv2.connectedComponentsWithStats(body.view(np.uint8), connectivity=4)
    counts = np.bincount(pieces[of_class], minlength=len(boxes))
    counts[0] = 0  # pixels outside of all pieces
    for index in np.flatnonzero(counts >= min_points):
        left, top, width, height = boxes[index, :4].tolist()
        window = np.s_[top : top + height, left : left + width]
        yield (pieces[window] == index) & of_class[window], PixelBox(left, top, width, height)


def _bounds(rays: Float32Array, depth: Float32Array, piece: BoolArray) -> tuple[Vector, Vector]:
    """Return centre and size of the points of `piece`, robust to outliers."""
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
