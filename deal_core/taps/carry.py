"""Carry the mask of a thing from one image to another by depth and the poses of the camera.

Each pixel of the other image asks the first one: its depth gives a point of the world, which lies at some pixel and
distance of the first camera. If the depth there is the same, both images show the same point, and the pixel takes what
the mask says. Otherwise something is in between, and the pixel is unknown.

Dark and shiny things have little depth of their own. So holes are filled: those of a thing with its own nearest depth,
and all others from what surrounds them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from deal_core.runtime.camera_rays import pixel_rays, project
from deal_core.structures import (
    BoolArray,
    CameraIntrinsics,
    Float32Array,
    Float64Array,
    Int64Array,
    Sample,
    UInt8Array,
)
from deal_core.surfaces.filling import fill_depth_image
from deal_core.taps.grow import grab_cut

_TOLERANCE_M, _TOLERANCE_A_SQUARE_METRE = 0.04, 0.03
"""Difference of two depths of one point, measured or filled, with slightly wrong poses."""
_KNOWN = 0.1
"""Confidence from which filled depth is used."""
_OWN_DEPTH = 0.05
"""A thing with depth at this share of its pixels, or more, fills its holes with it."""
_MOST_GONE = 0.3
"""A mask is not carried if the other image sees this share of it, or more, through the place of the thing."""
_LEAST_PIXELS = 12
_BAND = 0.15
"""Width of the band at the outline that GrabCut decides, as a share of the square root of the mask's area."""
_REACH_OF_UNKNOWN = 0.03
"""Pixels without depth take the side of the nearest known pixel up to this distance, as a share of the longer side."""


@dataclass(frozen=True, eq=False)
class View:
    """An image with depth, and where its camera was.

    Args:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) float32 metres, with filled holes.
        known: (H, W) bool, where depth is measured, or filled with some confidence.
        measured: (H, W) bool, where depth is measured.
        camera: Intrinsics of the image.
        pose: (4, 4) matrix from the optical frame of the camera to a world that stands still.
    """

    image: UInt8Array
    depth: Float32Array
    known: BoolArray
    measured: BoolArray
    camera: CameraIntrinsics
    pose: Float64Array

    @classmethod
    def of(cls, sample: Sample, camera: CameraIntrinsics, pose: Float64Array) -> View:
        """Return the view of a sample with metric depth; the intrinsics may be those of another size of the image."""
        filled, confidence = fill_depth_image(sample.depth, sample.depth_valid)
        height, width = sample.depth.shape
        known = (confidence > _KNOWN) & (filled > 0)
        return cls(sample.image, filled, known, sample.depth_valid, camera.resized(width, height), pose)


def carry_mask(mask: BoolArray, source: View, target: View) -> BoolArray:
    """Return the mask (H, W) of a thing in another image; empty where the other image does not show it.

    Pixels of the target without depth, or hidden from the source, take the side of the nearest pixel that is known; a
    band at the outline is decided by GrabCut. If the target looks through the place where the thing was, it has been
    moved, and the mask is empty.

    Args:
        mask: (H, W) of the thing in the source.
        source: The image with the mask.
        target: The other image.

    Raises:
        CameraModelError: the lens of a camera cannot be inverted.
    """
    empty = np.zeros(target.depth.shape, bool)
    if gone_share(mask, source, target) >= _MOST_GONE:
        return empty
    seen, inside = same_points(mask, _with_own_depth(mask, source), target)
    if inside.sum() < _LEAST_PIXELS:
        return empty
    return _finished(seen, inside, target.image)


def same_points(mask: BoolArray, source: View, target: View) -> tuple[BoolArray, BoolArray]:
    """Return which pixels (H, W) of the target show a point that the source sees, and which of them are in the mask."""
    columns, rows, distance, hits = places_in(source, target)
    x, y = np.where(hits, columns, 0), np.where(hits, rows, 0)
    hits &= source.known[y, x]
    seen = hits & (np.abs(source.depth[y, x] - distance) <= depth_tolerance(distance))
    return seen, seen & mask[y, x]


def gone_share(mask: BoolArray, source: View, target: View) -> float:
    """Return the share of a mask behind whose place the target sees something farther; 0 if the target sees none of it.

    What something nearer hides, and what lies outside the target, does not count.
    """
    there = replace(source, known=mask & source.measured)
    columns, rows, distance, hits = places_in(target, there)
    x, y = columns[hits], rows[hits]
    known = target.measured[y, x]
    beyond = (target.depth[y, x] - distance[hits])[known]
    limit = depth_tolerance(distance[hits])[known]
    gone, same = int((beyond > limit).sum()), int((np.abs(beyond) <= limit).sum())
    return gone / (gone + same) if gone + same else 0.0


def points_of(view: View, pose: Float64Array | None = None) -> Float64Array:
    """Return (H, W, 3) the point that each pixel shows, metres; that of a pixel without depth means nothing.

    Args:
        view: The view.
        pose: (4, 4) matrix from the optical frame of the camera to the points' frame; that to the world if None.

    Raises:
        CameraModelError: the lens of the camera cannot be inverted.
    """
    pose = view.pose if pose is None else pose
    right, down = pixel_rays(view.camera).astype(np.float64)
    points = np.stack([right, down, np.ones_like(right)], axis=-1) * view.depth[..., None].astype(np.float64)
    return np.asarray(points @ pose[:3, :3].T + pose[:3, 3])


def places_in(source: View, target: View) -> tuple[Int64Array, Int64Array, Float64Array, BoolArray]:
    """Return column, row and distance (H, W) in the source of each pixel of the target, and whether it lies in there.

    A pixel of the target without depth lies nowhere.
    """
    moved = points_of(target, np.linalg.inv(source.pose) @ target.pose)
    distance = np.where(target.known, moved[..., 2], 0.0)
    safe = np.where(distance > 0, distance, 1.0)[..., None]
    rays = np.where(distance[..., None] > 0, moved[..., :2] / safe, 0.0)
    pixels = np.rint(np.nan_to_num(project(rays, source.camera), nan=-1.0)).clip(-1, 1e6).astype(np.int64)
    columns, rows = pixels[..., 0], pixels[..., 1]
    height, width = source.depth.shape
    hits = target.known & (distance > 0) & (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return columns, rows, distance, hits


def depth_tolerance(distance: Float64Array) -> Float64Array:
    """Return the largest difference of two depths of one point at some distances, metres."""
    return np.asarray(_TOLERANCE_M + _TOLERANCE_A_SQUARE_METRE * distance**2)


def nearest_labels(mask: BoolArray) -> Int64Array:
    """Return (H, W) a number for each pixel: that of the nearest pixel in a mask, each of which has its own."""
    labels = cv2.distanceTransformWithLabels(
        (~mask).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )[1]
    return np.asarray(labels, np.int64)


def _with_own_depth(mask: BoolArray, view: View) -> View:
    """Return a view in which the holes of a thing have the depth of its nearest measured pixel."""
    own = mask & view.measured
    if own.sum() < max(_OWN_DEPTH * mask.sum(), 1):
        return view
    nearest = nearest_labels(own)
    values = np.zeros(int(nearest.max()) + 1, np.float32)
    values[nearest[own]] = view.depth[own]
    depth = np.where(mask & ~view.measured, values[nearest], view.depth)
    return replace(view, depth=depth, known=view.known | mask)


def _finished(seen: BoolArray, inside: BoolArray, image: UInt8Array) -> BoolArray:
    """Return the mask from the pixels that are known, with holes filled and the outline at an edge of colour."""
    far, nearest = cv2.distanceTransform((~seen).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5), nearest_labels(seen)
    side = np.zeros(int(nearest.max()) + 1, bool)
    side[nearest[seen]] = inside[seen]
    mask = side[nearest] & (far <= max(_REACH_OF_UNKNOWN * max(inside.shape), 1.0))
    band = max(round(_BAND * float(np.sqrt(mask.sum()))), 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1, 2 * band + 1))
    core = cv2.erode(mask.view(np.uint8), kernel).astype(bool)
    around = cv2.dilate(mask.view(np.uint8), kernel).astype(bool)
    hints = np.full(mask.shape, cv2.GC_BGD, np.uint8)
    hints[around], hints[mask], hints[core] = cv2.GC_PR_BGD, cv2.GC_PR_FGD, cv2.GC_FGD
    return grab_cut(image, hints)
