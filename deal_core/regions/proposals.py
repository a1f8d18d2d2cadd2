"""Region proposals from depth: connected parts off the planes, their pieces, and parts of the planes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from deal_core.structures import BoolArray, DepthKind, Float32Array, Int64Array, valid_depth
from deal_core.surfaces.filling import fill_depth_image
from deal_core.surfaces.parts import connected_parts
from deal_core.surfaces.planes import Planes, find_planes

AREA_BOUNDS = (0.0006, 0.25)
"""Smallest and largest share of the image that a region may cover."""
JUMPS = (np.inf, 0.10, 0.04)
"""Depth jumps that cut the parts off the planes, as in `connected_parts`; infinity does not cut."""
SAME = 0.85
"""Two regions with at least this intersection over union are one region."""
MOST = 100
"""Largest number of regions of an image; the largest regions stay."""
WINDOWS = (0.06, 0.12, 0.3)
"""Sides of the windows, as shares of the longer side, in which a thing stands out from what surrounds it."""
_RELIEF_M, _RELIEF_A_SQUARE_METRE, _INVERSE_RELIEF = 0.008, 0.006, 0.02
_OPENING = 3
_MOST_PIECES, _PLACES, _ROUNDS = 8, 1000, 10


@dataclass(frozen=True, eq=False)
class Proposals:
    """The regions of an image; they may overlap.

    Args:
        masks: (N, H, W) bool.
        overlaps: (N, N) intersection over union of each pair, in [0, 1]; 1 on the diagonal.
        planes: Planes of the image.
        depth: (H, W) depth of the image with filled holes.
    """

    masks: BoolArray
    overlaps: Float32Array
    planes: Planes
    depth: Float32Array

    def __len__(self) -> int:
        return len(self.masks)


def propose_regions(depth: Float32Array, valid: BoolArray | None = None, kind: DepthKind = "metric") -> Proposals:
    """Return the regions of a depth image that may be things.

    Holes are filled first. A region is a connected part off all planes, whole or cut at depth jumps of 10 or 4 %; a
    connected part of a plane; a hole; or, where no plane supports things, a part that is nearer than what surrounds it.
    An elongated region is also divided in compact pieces, such as an arm in a hand and the rest. A region covers 0.06
    to 25 % of the image. Of near-duplicates, the region that comes first in this order stays.

    Args:
        depth: (H, W) depth of `kind`; 0 or not finite where unknown.
        valid: (H, W) mask of measured depth.
        kind: Metres, or relative inverse depth.

    Returns:
        The regions; none if the depth is unknown everywhere.

    Raises:
        ValueError: shapes do not fit.

    >>> depth = np.ones((60, 80), np.float32)
    >>> depth[20:40, 30:50] = 0.8
    >>> len(propose_regions(depth))
    1
    """
    if depth.ndim != 2 or (valid is not None and valid.shape != depth.shape):
        raise ValueError(f"expected depth (H, W) and valid of the same size, got {depth.shape}")
    filled = fill_depth_image(depth, valid, kind)[0]
    planes = find_planes(filled, None, kind)
    measured = valid_depth(depth, valid)
    labellings = [*_of_planes(filled, planes, kind), _of_holes(measured)]
    if not planes.supports.any():  # on a support, relief only adds parts of things
        labellings += _of_relief(filled, kind)
    candidates = [part for labels in labellings for part in _parts(labels)]
    candidates += [piece for whole in candidates for piece in _pieces(whole)]
    masks = np.stack(candidates) if candidates else np.zeros((0, *depth.shape), bool)
    masks, overlaps = _without_duplicates(masks)
    return Proposals(masks, overlaps, planes, filled)


def vote_weights(overlaps: Float32Array) -> Float32Array:
    """Return (N,) the weight of each region in the votes of its image, in (0, 1]; near-duplicates share one vote.

    The weight is 1 / (sum of the intersections over union with all regions), so the weights of n equal regions add up
    to 1, and a region without overlap has the weight 1.

    Args:
        overlaps: (N, N) intersection over union, 1 on the diagonal.

    >>> vote_weights(np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], np.float32)).tolist()
    [0.5, 0.5, 1.0]
    """
    return (1.0 / overlaps.sum(1)).astype(np.float32)


def overlaps_of(ours: BoolArray, theirs: BoolArray) -> Float32Array:
    """Return (N, M) the intersection over union of the masks (N, H, W) with the masks (M, H, W)."""
    pixels = ours.shape[1] * ours.shape[2]
    one, two = (masks.reshape(len(masks), pixels).astype(np.float32) for masks in (ours, theirs))
    shared = one @ two.T
    union = one.sum(1)[:, None] + two.sum(1)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _of_planes(depth: Float32Array, planes: Planes, kind: DepthKind) -> Iterator[Int64Array]:
    """Yield maps (H, W) of labels, 0 outside, of parts off the planes and on them; a label is one candidate."""
    opened = _opened(planes.labels == 0)
    for jump in JUMPS:
        yield connected_parts(depth, opened, jump=jump, kind=kind)
    for plane in range(1, len(planes) + 1):
        yield connected_parts(depth, planes.labels == plane, jump=np.inf, kind=kind)


def _of_relief(depth: Float32Array, kind: DepthKind) -> Iterator[Int64Array]:
    """Yield labels of parts that are nearer than everything around them: the white top-hat of the inverse depth.

    It needs no plane: a surface that bends less than the window stays behind the things on it.
    """
    known = depth > 0  # without any depth, the filled image is 0
    inverse = np.divide(1.0, depth, out=np.zeros_like(depth), where=known) if kind == "metric" else depth
    if kind == "metric":
        allowed = (_RELIEF_M + _RELIEF_A_SQUARE_METRE * depth**2) * inverse**2
    else:
        allowed = np.full_like(depth, _INVERSE_RELIEF * float(np.ptp(depth)))
    inverse = cv2.medianBlur(np.ascontiguousarray(inverse, np.float32), 3)
    for share in WINDOWS:
        side = max(round(share * max(depth.shape)), 3) | 1
        # The border is continued: otherwise the near end of a sloping surface would stand out.
        padded = cv2.copyMakeBorder(inverse, side, side, side, side, cv2.BORDER_REPLICATE)
        hat = cv2.morphologyEx(padded, cv2.MORPH_TOPHAT, np.ones((side, side), np.uint8))[side:-side, side:-side]
        yield connected_parts(depth, _opened(hat > allowed), jump=JUMPS[-1], kind=kind)


def _of_holes(measured: BoolArray) -> Int64Array:
    """Return labels of the holes: dark and shiny things often have no depth at all."""
    return np.asarray(cv2.connectedComponents(_opened(~measured).view(np.uint8), connectivity=4)[1], np.int64)


def _opened(mask: BoolArray) -> BoolArray:
    kernel = np.ones((_OPENING, _OPENING), np.uint8)
    return cv2.morphologyEx(mask.view(np.uint8), cv2.MORPH_OPEN, kernel).astype(bool)


def _parts(labels: Int64Array) -> Iterator[BoolArray]:
    """Yield the mask of each label with an area within the bounds, largest first."""
    low, high = (share * labels.size for share in AREA_BOUNDS)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    for label in np.argsort(-areas, kind="stable")[:MOST]:
        if low <= areas[label] <= high:
            yield labels == label


def _pieces(mask: BoolArray) -> Iterator[BoolArray]:
    """Yield the compact pieces of an elongated region, each about as long as the region is wide."""
    area = int(mask.sum())
    padded = np.pad(mask, 1).view(np.uint8)
    width = 2.0 * float(cv2.distanceTransform(padded, cv2.DIST_L2, 3).max())
    count = min(round(area / width**2), _MOST_PIECES)
    if count < 2 or area < count * AREA_BOUNDS[0] * mask.size:
        return
    places = np.argwhere(mask).astype(np.float32)
    centres = _centres(places[:: max(len(places) // _PLACES, 1)], count)
    nearest = np.square(places[:, None] - centres[None]).sum(2).argmin(1)
    for piece in range(count):
        rows, columns = places[nearest == piece].astype(np.int64).T
        found = np.zeros_like(mask)
        found[rows, columns] = True
        yield found


def _centres(places: Float32Array, count: int) -> Float32Array:
    """Return the centres of k-means (Lloyd 1982), begun with places far from each other."""
    centres = places[np.square(places - places.mean(0)).sum(1).argmax()][None]
    while len(centres) < count:
        distance = np.square(places[:, None] - centres[None]).sum(2).min(1)
        centres = np.concatenate([centres, places[distance.argmax()][None]])
    for _ in range(_ROUNDS):
        nearest = np.square(places[:, None] - centres[None]).sum(2).argmin(1)
        centres = np.stack([places[nearest == index].mean(0) for index in range(count)])
    return centres


def _without_duplicates(masks: BoolArray) -> tuple[BoolArray, Float32Array]:
    overlaps = overlaps_of(masks, masks)
    kept: list[int] = []
    for index in range(len(masks)):
        if not kept or overlaps[index, kept].max() < SAME:
            kept.append(index)
    if len(kept) > MOST:
        areas = masks[kept].sum((1, 2))
        largest = np.sort(np.argsort(-areas, kind="stable")[:MOST])
        kept = [kept[index] for index in largest]
    return masks[kept], overlaps[np.ix_(kept, kept)]


def smaller(masks: BoolArray, longest: int) -> BoolArray:
    """Return masks (N, h, w) with the longer side `longest` at most; a cell belongs to a mask if half of it does."""
    height, width = masks.shape[1:]
    factor = longest / max(height, width)
    if factor >= 1 or not len(masks):
        return masks
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    small = [cv2.resize(m.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5 for m in masks]
    return np.stack(small)
