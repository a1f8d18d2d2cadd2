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

`object_mask` numbers the pixels of the same objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.runtime.camera_rays import measured, pixel_rays
from deal_core.structures import BACKGROUND, UNLABELLED, BoolArray, CameraIntrinsics, Float32Array, UInt8Array

if TYPE_CHECKING:
    from deal_core.runtime.segmenter import Segmentation

Vector = tuple[float, float, float]
Int16Array = npt.NDArray[np.int16]

OBJECTS_PER_CLASS = 127
"""Number of objects of one class that have an id: `object_id` of the last class and object fits 16 bits with a sign."""

_STEP_M, _STEP_PER_M = 0.05, 0.02  # depth jumps if it spans more than 0.05 + 0.02 z^2 metres
_BOUNDS = (2, 98)
_BOUNDS_POINTS = 5000  # larger objects are subsampled
_OUTLIER_DEVIATIONS = 4.0
_DEVIATION_OF_MEDIAN = 1.4826  # standard deviation / median absolute deviation of a normal distribution
_FAR = np.float32(1e6)  # metres; replaces infinity, which has no differences
_NEIGHBOURHOOD = np.ones((5, 5), np.uint8)  # about the width of smeared depth edges
_RIM_PX = 5.0  # pixels that the neighbourhood removes from the border of an object
_DEPTH_NOISE_PER_M = 0.01  # standard deviation of stereo depth: 0.01 z^2 metres, 2 % at 2 m


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

    @property
    def center_variance(self) -> Vector:
        """Variance of the centre along x, y and z, in square metres: an estimate, not a measurement.

        Only the visible side is measured. Along x and y, the centre is taken as uniform within the bounds; along z, as
        uniform within the greatest extent, since the unseen side may be as far away. The variance of depth adds.
        """
        width, height, length = (extent**2 / 12 for extent in self.size)
        noise = (_DEPTH_NOISE_PER_M * self.center[2] ** 2) ** 2
        return width + noise, height + noise, max(width, height, length) + noise


@dataclass(frozen=True, eq=False)
class _Piece:
    """The pixels of an object.

    Args:
        label: Mask id of the class.
        box: Bounding box in the image.
        body: (height, width) of the box, True for the pixels of the object.
        points: The pixels of `body` with depth.
    """

    label: int
    box: PixelBox
    body: BoolArray
    points: BoolArray

    @property
    def window(self) -> tuple[slice, slice]:
        """The place of the box in the image."""
        return _window(self.box)


def find_objects(
    result: Segmentation,
    depth: Float32Array,
    camera: CameraIntrinsics,
    *,
    near_m: float = 0.0,
    far_m: float = np.inf,
    min_points: int = 50,
    ids: Set[int] | None = None,
) -> tuple[SceneObject, ...]:
    """Return the objects of all classes, ordered by id and then by decreasing number of points.

    Args:
        result: Mask and confidence, (H, W).
        depth: (H, W) float32 metres along the optical axis, 0 or nan where unknown.
        camera: Camera of the colour image, to which depth is aligned; its size is H and W.
        near_m: Smallest depth, in metres.
        far_m: Largest depth, in metres.
        min_points: Smallest number of pixels with depth of an object.
        ids: Mask ids of the classes whose objects are wanted; None for all classes.

    Raises:
        CameraModelError: the distortion of the lens cannot be inverted.
    """
    rays = pixel_rays(camera)
    found = []
    for piece in _in_order(_pieces(result.mask, depth, measured(depth, near_m, far_m), min_points)):
        if ids is not None and piece.label not in ids:
            continue
        inside = piece.window
        center, size = _bounds(rays[:, inside[0], inside[1]], depth[inside], piece.points)
        confidence = float(result.confidence[inside][piece.points].mean())
        count = int(np.count_nonzero(piece.points))
        found.append(SceneObject(piece.label, center, size, count, confidence, piece.box))
    return tuple(found)


def object_id(label: int, number: int) -> int:
    """Return the id of an object in an object mask.

    Args:
        label: Mask id of its class, 0..255.
        number: Its place among the objects of its class, from 1 for the one with most points, to `OBJECTS_PER_CLASS`.
    """
    return label * (OBJECTS_PER_CLASS + 1) + number


def object_mask(
    mask: UInt8Array,
    depth: Float32Array | None = None,
    *,
    near_m: float = 0.0,
    far_m: float = np.inf,
    min_points: int = 50,
) -> Int16Array:
    """Return the (H, W) `object_id` of each pixel, 0 for no object; ids hold for one image and are not tracked.

    The objects and their order are those of `find_objects` of all classes. An object also gets the pixels of its class
    that are at most five pixels away. Background, unlabelled pixels and pieces that are too small are no objects;
    neither are objects of a class after the 127th.

    Args:
        mask: (H, W) uint8 class ids.
        depth: As for `find_objects`. Without depth, an object is a connected piece of a class in the image.
        near_m: Smallest depth, in metres.
        far_m: Largest depth, in metres.
        min_points: Smallest number of pixels with depth of an object; without depth, of all its pixels.
    """
    usable = np.ones(mask.shape, np.bool_) if depth is None else measured(depth, near_m, far_m)
    flat = np.ones(mask.shape, np.float32) if depth is None else depth
    ids = np.zeros(mask.shape, np.int16)
    numbers: Counter[int] = Counter()
    for piece in _in_order(_pieces(mask, flat, usable, min_points)):
        numbers[piece.label] += 1
        if numbers[piece.label] <= OBJECTS_PER_CLASS:
            ids[piece.window][piece.body] = object_id(piece.label, numbers[piece.label])
    for label in numbers:
        _add_rims(ids, mask == label)
    return ids


def _pieces(mask: UInt8Array, depth: Float32Array, usable: BoolArray, min_points: int) -> Iterator[_Piece]:
    """Yield the pieces of every class that have at least `min_points` usable pixels."""
    for label in np.flatnonzero(np.bincount(mask[usable], minlength=256) >= min_points).tolist():
        if label in (BACKGROUND, UNLABELLED):
            continue
        members = mask == label
        around = PixelBox(*cv2.boundingRect(members.view(np.uint8)))
        window = _window(around)
        of_class = usable[window] & members[window]
        body = _without_jumps(depth[window], members[window], of_class)
        _, numbers, boxes, _ = cv2.connectedComponentsWithStats(body.view(np.uint8), connectivity=4)
        counts = np.bincount(numbers[of_class], minlength=len(boxes))
        counts[0] = 0  # pixels outside of all pieces
        for number in np.flatnonzero(counts >= min_points):
            box = PixelBox(*boxes[number, :4].tolist())
            pixels = numbers[_window(box)] == number
            place = PixelBox(around.left + box.left, around.top + box.top, box.width, box.height)
            yield _Piece(label, place, pixels, pixels & of_class[_window(box)])


def _in_order(pieces: Iterable[_Piece]) -> list[_Piece]:
    return sorted(pieces, key=lambda piece: (piece.label, -np.count_nonzero(piece.points)))


def _window(box: PixelBox) -> tuple[slice, slice]:
    return np.s_[box.top : box.top + box.height, box.left : box.left + box.width]


def _add_rims(ids: Int16Array, members: BoolArray) -> None:
    """Give the pixels of a class that have no id the id of the nearest pixel of the class, if it is near."""
    window = _window(PixelBox(*cv2.boundingRect(members.view(np.uint8))))
    inside, of_class = ids[window], members[window]
    has_id = of_class & (inside > 0)
    distance, nearest = cv2.distanceTransformWithLabels(
        (~has_id).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    id_of = np.zeros(int(nearest.max()) + 1, np.int16)
    id_of[nearest[has_id]] = inside[has_id]
    rim = of_class & ~has_id & (distance <= _RIM_PX)
    inside[rim] = id_of[nearest[rim]]


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
