"""The mask of `deal_core.masks.decide.decide`, pixel by pixel the same, in a fraction of its time.

A class can win only near scores that exceed the threshold, so only these parts of its map are looked at. Parts of
several classes that lie apart are resized together, in one map: a pixel of a bilinearly resized map depends on the four
scores around it alone. So the time depends on the area of the objects and on how many of them overlap, not on the
number of classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from deal_core.structures import BoolArray, Float32Array, UInt8Array

_MOST_PARTS = 8
"""Parts of a class that are looked at one by one; more are looked at as one."""
_ROUNDING = 1e-5
"""More than the relative error of a score interpolated in float32."""
_PLACE = 1e-3
"""More than the error of a pixel's place among the scores, which libraries compute in float32."""


def decide_mask(scores: Float32Array, size: tuple[int, int], threshold: float, *, relative: bool = True) -> UInt8Array:
    """Return the mask (H, W) of class ids, 0 for background, that `decide` returns for the same arguments."""
    bound = np.float32(threshold)
    parts = list(_parts(scores, size, float(bound), relative))
    maps = _resized(scores, parts, size)
    if relative:
        _divide_by_peaks(parts, maps)
    overlapping = [part for part in parts if any(part.meets(other) for other in parts)]
    top = np.empty(size if overlapping else (0, 0), np.float32)
    for part in overlapping:
        top[part.pixels.slices] = bound
    mask = np.zeros(size, np.uint8)
    for part, found in zip(parts, maps, strict=True):
        ids, best = mask[part.pixels.slices], top[part.pixels.slices]
        if part not in overlapping:
            np.multiply((found > bound).view(np.uint8), np.uint8(part.class_id), out=ids)
            continue
        # Ids increase, so the maximum is the id of the later class where this class is better.
        np.maximum(ids, (found > best).view(np.uint8) * np.uint8(part.class_id), out=ids)
        if part is not overlapping[-1]:
            np.maximum(best, found, out=best)
    return mask


@dataclass(frozen=True)
class _Box:
    """Rows and columns of a map, as from `range`."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def is_empty(self) -> bool:
        return self.top >= self.bottom or self.left >= self.right

    def meets(self, other: _Box) -> bool:
        rows = self.top < other.bottom and other.top < self.bottom
        return rows and self.left < other.right and other.left < self.right

    def wider(self, points: int, shape: tuple[int, ...]) -> _Box:
        """Return the box with so many more points on each side, within a map of this shape."""
        rows = max(self.top - points, 0), min(self.bottom + points, shape[0])
        return _Box(*rows, max(self.left - points, 0), min(self.right + points, shape[1]))

    def pixels(self, shape: tuple[int, ...], size: tuple[int, int]) -> _Box:
        """Return the box of all pixels, of an image of this size, that depend on points of this box."""
        rows = _pixels_of(self.top, self.bottom, shape[0], size[0])
        return _Box(*rows, *_pixels_of(self.left, self.right, shape[1], size[1]))


@dataclass(frozen=True)
class _Part:
    """A part of a class's map with pixels where the class may win.

    Args:
        class_id: Id of the class.
        points: All scores on which these pixels depend.
        pixels: These pixels.
        may_hold_peak: Whether the maximum of the resized map may be here; without relative scores it does not matter.
    """

    class_id: int
    points: _Box
    pixels: _Box
    may_hold_peak: bool

    def meets(self, other: _Part) -> bool:
        return self is not other and self.pixels.meets(other.pixels)


def _parts(scores: Float32Array, size: tuple[int, int], bound: float, relative: bool) -> Iterator[_Part]:
    """Yield the parts of all classes that may exceed the bound, in the order of their ids."""
    shape = scores.shape[1:]
    for index, highest in enumerate(scores.max((1, 2)).tolist()):
        if highest <= (0 if relative else _little_less(bound)) or (relative and bound >= 1):
            continue
        score = scores[index]
        peak = _bound_of_peak(score, size) if relative else 1.0
        for box in _boxes(score > _little_less(bound * peak)):
            part = _Part(index + 1, box.wider(2, shape), box.pixels(shape, size), bool(score[box.slices].max() >= peak))
            if not part.pixels.is_empty:
                yield part


def _boxes(chosen: BoolArray) -> list[_Box]:
    """Return boxes that lie apart and hold all chosen points: few, or a single one."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(chosen.view(np.uint8), connectivity=8)
    boxes = [_Box(top, top + rows, left, left + columns) for left, top, columns, rows, _ in stats[1:].tolist()]
    wide = [box.wider(2, chosen.shape) for box in boxes[: _MOST_PARTS + 1]]
    if len(boxes) <= _MOST_PARTS and not any(one.meets(other) for i, one in enumerate(wide) for other in wide[:i]):
        return boxes
    left, top = stats[1:, :2].min(0).tolist()
    right, bottom = (stats[1:, :2] + stats[1:, 2:4]).max(0).tolist()
    return [_Box(top, bottom, left, right)]


def _bound_of_peak(score: Float32Array, size: tuple[int, int]) -> float:
    """Return a number that the maximum of the resized map reaches: its value at the pixel next to the highest score."""
    row, column = divmod(int(score.argmax()), score.shape[1])
    rows, down = _next_pixel(row, score.shape[0], size[0])
    columns, right = _next_pixel(column, score.shape[1], size[1])
    upper, lower = ((1 - right) * float(score[r, columns[0]]) + right * float(score[r, columns[1]]) for r in rows)
    return _little_less((1 - down) * upper + down * lower)


def _next_pixel(point: int, points: int, pixels: int) -> tuple[tuple[int, int], float]:
    """Return the two points around the pixel next to a point, and the pixel's place between them, in [0, 1]."""
    pixel = min(max(round((point + 0.5) * pixels / points - 0.5), 0), pixels - 1)
    place = min(max((pixel + 0.5) * points / pixels - 0.5, 0.0), points - 1.0)
    before = int(place)
    return (before, min(before + 1, points - 1)), place - before


def _little_less(score: float) -> float:
    """Return a number that is below a score by more than any rounding, and at least 0."""
    return max(score * (1 - _ROUNDING) - 1e-30, 0.0)


def _pixels_of(first: int, last: int, points: int, pixels: int) -> tuple[int, int]:
    """Return the range of pixels that depend on the points from `first` to before `last`."""
    begin = math.ceil((first - 0.5 - _PLACE) * pixels / points - 0.5) if first > 0 else 0
    end = math.floor((last + 0.5 + _PLACE) * pixels / points - 0.5) + 1 if last < points else pixels
    return max(begin, 0), min(end, pixels)


def _divide_by_peaks(parts: list[_Part], maps: list[Float32Array]) -> None:
    """Divide each class's resized map by its maximum; a map without a score above 0 stays as it is."""
    peaks: dict[int, np.float32] = {}
    for part, found in zip(parts, maps, strict=True):
        highest = found.max() if part.may_hold_peak else np.float32(0)
        peaks[part.class_id] = max(peaks.get(part.class_id, highest), highest)
    for part, found in zip(parts, maps, strict=True):
        if peaks[part.class_id] > 0:
            found /= peaks[part.class_id]


def _resized(scores: Float32Array, parts: list[_Part], size: tuple[int, int]) -> list[Float32Array]:
    """Return the pixels of each part; parts whose points do not overlap are resized together."""
    layers: list[list[_Part]] = []
    chosen: list[int] = []
    for part in parts:
        clashes = (any(_clash(part, other) for other in layer) for layer in layers)
        index = next((index for index, clash in enumerate(clashes) if not clash), len(layers))
        layers += [[]] if index == len(layers) else []
        layers[index].append(part)
        chosen.append(index)
    height, width = size
    full = [cv2.resize(_joined(scores, layer), (width, height), interpolation=cv2.INTER_LINEAR) for layer in layers]
    return [np.asarray(full[index][part.pixels.slices]) for part, index in zip(parts, chosen, strict=True)]


def _clash(one: _Part, other: _Part) -> bool:
    return one.class_id != other.class_id and one.points.meets(other.points)


def _joined(scores: Float32Array, parts: list[_Part]) -> Float32Array:
    """Return a map (h, w) with the scores of each part on its points."""
    joined = np.zeros(scores.shape[1:], np.float32)
    for part in parts:
        joined[part.points.slices] = scores[part.class_id - 1][part.points.slices]
    return joined
