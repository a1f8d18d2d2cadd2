"""Grow the mask of a thing from a tap on it, or from a box around it.

Depth comes first. The planes are fitted near the tap, since the largest plane of an image is seldom the one that a
thing stands on; the thing is the connected part off these planes that the tap hits. Colour decides where depth cannot:
for a flat thing, which is part of its plane, and where a part is so large that depth did not divide it. At last,
GrabCut (Rother, Kolmogorov and Blake 2004) moves the outline to an edge of colour.

A box says more than a tap, as it is tight: of several masks, the one that fills the box to its sides is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from deal_core.dataset.taps import Box, Mark, Tap
from deal_core.errors import DatasetError
from deal_core.structures import BoolArray, ClassList, DepthKind, Float32Array, Int64Array, Sample, UInt8Array
from deal_core.surfaces.filling import fill_depth_image
from deal_core.surfaces.parts import connected_parts
from deal_core.surfaces.planes import find_planes

REACHES = (0.15, 0.25, 0.4)
"""Half the sides of the windows around a tap in which planes are fitted, as shares of the longer side of the image; a
larger one is for a thing that fills the smaller one."""
JUMP = 0.01
"""Relative jump of depth between neighbouring pixels that ends a thing."""
_MOST_OF_WINDOW = 0.5
"""A part with more of its window is no thing, but what depth could not divide."""
_LEAST_AREA = 0.0014
"""A smaller part, as a share of the image, is noise of a plane."""
_KNOWN = 0.3
"""Confidence of filled depth from which a pixel takes part in the fit of a plane."""
_PLANES, _PLANE_SHARE = 3, 0.1
_NEAREST = 0.0125
"""A tap this near to a part, as a share of the longer side, hits it."""
_RING, _RING_OF_COLOUR = 0.5, 3.0
"""Width of the ring around a part in which GrabCut may add pixels, as a share of the square root of its area."""
_DISC = 0.025
"""Radius of the disc around a tap whose colours are those of a flat thing, as a share of the longer side."""
_SPOT = 2
"""Radius in pixels of what a tap on another thing takes away."""
_LEAST_DISC = 5  # fewer pixels give GrabCut too few colours
_ROUNDS, _SEED = 3, 0
_MARGIN = 1.0
_TIGHT = 0.75
"""Least intersection over union of a box and the box around a mask for the mask to fill it."""


@dataclass(frozen=True, eq=False)
class Thing:
    """One thing in an image.

    Args:
        label: Index of its class, from 0.
        mask: (H, W) bool.
    """

    label: int
    mask: BoolArray


def grow_things(sample: Sample, marks: Sequence[Mark], classes: ClassList, kind: DepthKind = "metric") -> list[Thing]:
    """Return the things that the marks of an image show, boxes first; things of one class may overlap.

    A mark of a class that is tagged absent is left out. A tap inside a thing of its class that was found before adds
    nothing. Taps on other things, and taps with `is_on` False, end a thing between them and its own taps.

    Args:
        sample: The image with its depth and tags; without depth, colour alone decides.
        marks: Taps and boxes in the image.
        classes: Classes of the dataset.
        kind: Kind of the depth.

    Raises:
        DatasetError: a mark lies outside the image.
    """
    height, width = sample.image.shape[:2]
    for mark in marks:
        _check_inside(mark, sample.key, height, width)
    used = [mark for mark in marks if sample.tags[classes.id_of(mark.name) - 1] != 0]
    picture = Picture.of(sample, kind) if used else None
    things: list[Thing] = []
    for mark in sorted(used, key=lambda mark: isinstance(mark, Tap)):
        label = classes.id_of(mark.name) - 1
        if picture is None or (isinstance(mark, Tap) and not mark.is_on):
            continue
        if isinstance(mark, Box):
            things.append(Thing(label, grow_from_box(picture, mark, _others(mark, used))))
        elif not any(thing.label == label and thing.mask[mark.y, mark.x] for thing in things):
            things.append(Thing(label, grow_from_tap(picture, (mark.x, mark.y), _others(mark, used))))
    return things


@dataclass(frozen=True, eq=False)
class Picture:
    """An image prepared for growing.

    Args:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) filled depth of `kind`; 0 in an image without depth.
        known: (H, W) mask of the depth that planes are fitted to.
        kind: Kind of the depth.
    """

    image: UInt8Array
    depth: Float32Array
    known: BoolArray
    kind: DepthKind

    @classmethod
    def of(cls, sample: Sample, kind: DepthKind = "metric") -> Picture:
        """Fill the depth of a sample."""
        filled, confidence = fill_depth_image(sample.depth, sample.depth_valid, kind)
        return cls(np.ascontiguousarray(sample.image), filled, confidence > _KNOWN, kind)


def grow_from_tap(picture: Picture, place: tuple[int, int], others: Sequence[tuple[int, int]] = ()) -> BoolArray:
    """Return the mask (H, W) of the thing at a pixel; it contains the pixel.

    Args:
        picture: The image.
        place: Column and row of the tap.
        others: Columns and rows of taps on other things.
    """
    part = _in_relief(picture, place, others)
    if part is None:
        mask = _cut(picture, _disc(picture.depth.shape, place), place, others, _RING_OF_COLOUR)
    else:
        mask = _cut(picture, part, place, others, _RING)
    mask[place[1], place[0]] = True
    return mask


def _in_relief(picture: Picture, place: tuple[int, int], others: Sequence[tuple[int, int]]) -> BoolArray | None:
    """Return the part at a pixel by depth; None for a flat thing, and where depth does not divide the image."""
    size = picture.depth.shape
    for reach in REACHES:
        window = _window(size, place, round(reach * max(size)))
        part = _without_others(picture, off_planes_at(picture, place, window), place, others)
        if part.sum() >= _LEAST_AREA * part.size and part[window].mean() <= _MOST_OF_WINDOW:
            return part
    return None


def grow_from_box(picture: Picture, box: Box, others: Sequence[tuple[int, int]] = ()) -> BoolArray:
    """Return the mask (H, W) of the thing in a box; it has no pixel outside the box, and at least one in it.

    Args:
        picture: The image.
        box: A tight box.
        others: Columns and rows of taps on other things.
    """
    drawn = np.zeros(picture.depth.shape, np.uint8)
    drawn[box.top : box.bottom, box.left : box.right] = 1
    for place in others:
        cv2.circle(drawn, place, _SPOT, 0, -1)
    if not drawn.any():
        drawn[box.top, box.left] = 1
    inside = drawn.astype(bool)
    candidates = [found & inside for found in _in_box(picture, box, inside)]
    tightness = [_tightness(found, box) for found in candidates]
    best = int(np.argmax(tightness))
    return candidates[best] if tightness[best] >= _TIGHT else inside


def off_planes_at(picture: Picture, place: tuple[int, int], window: tuple[slice, slice]) -> BoolArray:
    """Return the connected part (H, W) at a pixel that is off all planes of a window; empty on a plane.

    A pixel outside the window belongs to no part. A place that just misses a part takes the nearest one.
    """
    off = np.zeros(picture.depth.shape, bool)
    if not picture.known[window].any():
        return off
    planes = find_planes(
        picture.depth[window], picture.known[window], picture.kind, most=_PLANES, least_share=_PLANE_SHARE
    )
    off[window] = planes.labels == 0
    opened = cv2.morphologyEx(off.view(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)).astype(bool)
    labels = connected_parts(picture.depth, opened, jump=JUMP, kind=picture.kind)
    label = _label_at(labels, place)
    return labels == label if label else np.zeros_like(off)


def _label_at(labels: Int64Array, place: tuple[int, int]) -> int:
    """Return the label at a pixel, or the nearest one that it just misses; 0 if there is none."""
    x, y = place
    if labels[y, x]:
        return int(labels[y, x])
    reach = max(round(_NEAREST * max(labels.shape)), 1)
    window = _window(labels.shape, place, reach)
    rows, columns = np.nonzero(labels[window])
    if not len(rows):
        return 0
    distance = (rows + window[0].start - y) ** 2 + (columns + window[1].start - x) ** 2
    nearest = int(distance.argmin())
    return int(labels[window][rows[nearest], columns[nearest]]) if distance[nearest] <= reach**2 else 0


def _without_others(
    picture: Picture, part: BoolArray, place: tuple[int, int], others: Sequence[tuple[int, int]]
) -> BoolArray:
    """Return the share of a part that belongs to its tap rather than to other taps in it (a watershed of colour)."""
    inside = [(x, y) for x, y in others if part[y, x]]
    if not inside:
        return part
    seeds = np.where(part, 0, 3).astype(np.int32)
    for (x, y), seed in ((place, 1), *((other, 2) for other in inside)):
        cv2.circle(seeds, (x, y), 1, seed, -1)
    cv2.watershed(cv2.cvtColor(picture.image, cv2.COLOR_RGB2LAB), seeds)
    return np.asarray(part & (seeds == 1))


def _cut(
    picture: Picture, part: BoolArray, place: tuple[int, int], others: Sequence[tuple[int, int]], ring: float
) -> BoolArray:
    """Return the connected part at a pixel after GrabCut, which may add a ring of pixels and keeps the core."""
    radius = max(int(ring * np.sqrt(part.sum())), 3)
    near = _grown(part, radius)
    hints = np.full(part.shape, cv2.GC_BGD, np.uint8)
    hints[near] = cv2.GC_PR_BGD
    hints[part] = cv2.GC_PR_FGD
    hints[_shrunk(part, max(radius // 3, 1))] = cv2.GC_FGD
    for x, y in others:
        cv2.circle(hints, (x, y), _SPOT, cv2.GC_BGD, -1)
    cv2.circle(hints, place, 1, cv2.GC_FGD, -1)
    found = grab_cut(picture.image, hints)
    labels = cv2.connectedComponents(found.view(np.uint8))[1]
    return np.asarray(labels == labels[place[1], place[0]]) if found[place[1], place[0]] else part


def grab_cut(image: UInt8Array, hints: UInt8Array) -> BoolArray:
    """Return the foreground (H, W) by GrabCut; hints (H, W) are OpenCV's `GC_…` values.

    Only a window is looked at: what is not certain background, and around it a margin of its size. Without any
    background, or any foreground, there is nothing to learn, and the hints decide.
    """
    found = (hints == cv2.GC_FGD) | (hints == cv2.GC_PR_FGD)
    rows, columns = np.nonzero(hints != cv2.GC_BGD)
    if not len(rows):
        return np.asarray(found)
    margin = max(round(_MARGIN * max(np.ptp(rows), np.ptp(columns))), 3)
    window = (
        slice(max(int(rows.min()) - margin, 0), int(rows.max()) + margin + 1),
        slice(max(int(columns.min()) - margin, 0), int(columns.max()) + margin + 1),
    )
    inside = np.ascontiguousarray(hints[window])
    is_back = (inside == cv2.GC_BGD) | (inside == cv2.GC_PR_BGD)
    if is_back.all() or not is_back.any():
        return np.asarray(found)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(_SEED)  # its k-means draws from OpenCV's global generator
    cv2.grabCut(np.ascontiguousarray(image[window]), inside, None, *models, _ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = np.zeros_like(found)
    found[window] = (inside == cv2.GC_FGD) | (inside == cv2.GC_PR_FGD)
    return np.asarray(found)


def _in_box(picture: Picture, box: Box, inside: BoolArray) -> Iterator[BoolArray]:
    """Yield masks that a box may mean: by colour, off the planes around it, and the part in its middle."""
    hints = np.where(inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    yield _largest(grab_cut(picture.image, hints))
    middle = (box.left + box.right) // 2, (box.top + box.bottom) // 2
    reach = round(0.6 * max(box.right - box.left, box.bottom - box.top))
    window = _window(inside.shape, middle, max(reach, round(REACHES[0] * max(inside.shape))))
    near = _window(inside.shape, middle, max(reach, 3))
    if picture.known[near].any():
        planes = find_planes(
            picture.depth[near], picture.known[near], picture.kind, most=_PLANES, least_share=_PLANE_SHARE
        )
        off = np.zeros_like(inside)
        off[near] = planes.labels == 0
        yield _largest(off & inside)
    yield _largest(off_planes_at(picture, middle, window) & inside)


def _tightness(mask: BoolArray, box: Box) -> float:
    """Return the intersection over union of a box and the box around a mask inside it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0.0
    spanned = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    return float(spanned / ((box.bottom - box.top) * (box.right - box.left)))


def _largest(mask: BoolArray) -> BoolArray:
    """Return the largest connected part of a mask."""
    _, labels, figures, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8))
    if len(figures) < 2:
        return mask
    return np.asarray(labels == 1 + int(figures[1:, cv2.CC_STAT_AREA].argmax()))


def _others(mark: Mark, marks: Sequence[Mark]) -> list[tuple[int, int]]:
    """Return the places of taps that are not on the thing of a mark: those of other classes, and those that say so."""
    taps = (other for other in marks if isinstance(other, Tap) and other is not mark)
    return [(tap.x, tap.y) for tap in taps if tap.is_on != (tap.name == mark.name)]


def _check_inside(mark: Mark, key: str, height: int, width: int) -> None:
    right, bottom = (mark.x + 1, mark.y + 1) if isinstance(mark, Tap) else (mark.right, mark.bottom)
    if right > width or bottom > height:
        what = f"the tap at ({mark.x}, {mark.y})" if isinstance(mark, Tap) else f"the box to ({right}, {bottom})"
        raise DatasetError(f"{key}: {what} for {mark.name} lies outside the image of {width} x {height} pixels")


def _window(size: tuple[int, ...], place: tuple[int, int], reach: int) -> tuple[slice, slice]:
    """Return rows and columns around a place, inside the image."""
    x, y = place
    return slice(max(y - reach, 0), min(y + reach + 1, size[0])), slice(max(x - reach, 0), min(x + reach + 1, size[1]))


def _disc(size: tuple[int, ...], place: tuple[int, int]) -> BoolArray:
    disc = np.zeros(size, np.uint8)
    cv2.circle(disc, place, max(round(_DISC * max(size)), _LEAST_DISC), 1, -1)
    return disc.astype(bool)


def _grown(mask: BoolArray, radius: int) -> BoolArray:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(mask.view(np.uint8), kernel).astype(bool)


def _shrunk(mask: BoolArray, radius: int) -> BoolArray:
    return cv2.erode(mask.view(np.uint8), np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)).astype(bool)
