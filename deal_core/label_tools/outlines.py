"""Outlines of objects as the tools write them: polygons, run lengths, brushes, boxes, ellipses.

All polygons are filled by pycocotools, whatever tool they come from, and a pixel spans one unit of their coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from deal_core.dataset.coco import decode_segmentation, fitted
from deal_core.dataset.dataset import FrameRecord
from deal_core.errors import DatasetError, short
from deal_core.label_tools.choices import BoxUse
from deal_core.label_tools.layers import Layer, refused, stacked
from deal_core.limits import refuse_over

_ELLIPSE_POINTS = 360


class Outline(Protocol):
    """What bounds an object."""

    def pixels(self, frame: FrameRecord, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Return the pixels (H, W) that it covers in the image at its size; `frame.mask` is the file for messages."""
        ...


@dataclass(frozen=True)
class CocoOutline:
    """Polygons or run lengths as COCO writes them.

    Args:
        segmentation: The polygons `[[x, y, x, y, …], …]` or `{"size": …, "counts": …}`.
        stated: (H, W) of the image for which they were made; None for the image as it is.
        is_box: Whether they are the sides of a box, and not an outline.
    """

    segmentation: Any
    stated: tuple[int, int] | None = None
    is_box: bool = False

    def pixels(self, frame: FrameRecord, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Return the pixels (H, W) that it covers."""
        return decode_segmentation(frame, self.segmentation, size, self.stated or size)


@dataclass(frozen=True)
class RowRuns:
    """Run lengths of a box of pixels, along its rows, pixels outside first, as CVAT writes them.

    Args:
        counts: Lengths of the runs.
        left, top, width, height: The box.
        stated: (H, W) of the image.
    """

    counts: Sequence[int]
    left: int
    top: int
    width: int
    height: int
    stated: tuple[int, int]

    def pixels(self, frame: FrameRecord, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Return the pixels (H, W) that they cover."""
        assert frame.mask is not None  # the file for messages
        height, width = self.stated
        refuse_over("image_pixels", height * width, f"pixels of image {frame.name}", refused(frame.mask))
        right, bottom = self.left + self.width, self.top + self.height
        if not (0 <= self.left < right <= width and 0 <= self.top < bottom <= height):
            raise DatasetError(f"{frame.mask}: a mask of image {frame.name} lies outside the image")
        counts = np.asarray(self.counts, np.int64)
        if (counts < 0).any() or counts.sum() != self.width * self.height:
            raise DatasetError(
                f"{frame.mask}: the run lengths of a mask of image {frame.name} have {counts.sum()} pixels, expected "
                f"{self.width} x {self.height}"
            )
        runs = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        covered = np.zeros(self.stated, np.uint8)
        covered[self.top : self.top + self.height, self.left : self.left + self.width] = runs.reshape(
            self.height, self.width
        )
        return fitted(frame, covered, size).astype(np.bool_)


@dataclass(frozen=True)
class Brush:
    """Run lengths of the red, green, blue and alpha values of an image, as Label Studio writes a brush.

    Each value and its run are packed in bits: a count of the values, the bits of a value, four lengths of counts, and
    then runs of one value or of different values.

    Args:
        data: The bytes, 0 to 255.
        stated: (H, W) of the image.
    """

    data: Sequence[int]
    stated: tuple[int, int]

    def pixels(self, frame: FrameRecord, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Return the pixels (H, W) with an alpha value above 0."""
        assert frame.mask is not None  # the file for messages
        height, width = self.stated
        refuse_over("image_pixels", height * width, f"pixels of image {frame.name}", refused(frame.mask))
        try:
            values = unpack_brush(bytes(self.data), 4 * height * width)
        except (ValueError, TypeError) as error:
            raise DatasetError(f"{frame.mask}: a brush of image {frame.name} cannot be read ({error})") from None
        return fitted(frame, (values.reshape(height, width, 4)[..., 3] > 0).astype(np.uint8), size).astype(np.bool_)


@dataclass(frozen=True)
class Shape:
    """An object in an image.

    Args:
        label: Its name.
        outline: What bounds it.
    """

    label: str
    outline: Outline


@dataclass(frozen=True)
class ShapeSource:
    """Images with objects, read from one file or folder; see `deal_core.label_tools.layers.LabelSource`.

    Args:
        path: The file or folder.
        shapes: The objects of each image, the lowest first.
        notes: Remarks for a person.
        smaller_on_top: Whether smaller objects cover larger ones.
    """

    path: Path
    shapes: dict[str, tuple[Shape, ...]]
    notes: tuple[str, ...] = ()
    smaller_on_top: bool = False

    @property
    def images(self) -> Sequence[str]:
        """The names of the images."""
        return list(self.shapes)

    def labels(self, image: str) -> set[str]:
        """Return the names of the objects of an image."""
        return {shape.label for shape in self.shapes[image]}

    def layers(self, image: str, frame: FrameRecord, size: tuple[int, int]) -> list[Layer]:
        """Return the layers of an image, the lowest first."""
        named = replace(frame, mask=self.path)
        return stacked(
            (Layer.of(shape.label, shape.outline.pixels(named, size)) for shape in self.shapes[image]),
            frame,
            self.path,
            smaller_on_top=self.smaller_on_top,
        )


def polygon(points: Sequence[tuple[float, float]], stated: tuple[int, int] | None = None) -> CocoOutline:
    """Return the outline of a polygon with corners (x, y) in pixels; raise ValueError for fewer than three."""
    if len(points) < 3:
        raise ValueError(f"a polygon of {len(points)} corners, expected at least 3")
    return CocoOutline([[value for point in points for value in point]], stated)


def box(
    left: float,
    top: float,
    right: float,
    bottom: float,
    degrees: float = 0.0,
    centre: tuple[float, float] | None = None,
    stated: tuple[int, int] | None = None,
) -> CocoOutline:
    """Return the outline of a box, turned clockwise by an angle about a point; default: about its own centre."""
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)
    turned = _turned(corners, degrees, centre or ((left + right) / 2, (top + bottom) / 2))
    return CocoOutline([turned.ravel().tolist()], stated, is_box=True)


def ellipse(
    x: float, y: float, across: float, down: float, degrees: float = 0.0, stated: tuple[int, int] | None = None
) -> CocoOutline:
    """Return the outline of an ellipse with a centre and two half axes, turned clockwise by an angle."""
    angles = np.linspace(0, 2 * np.pi, _ELLIPSE_POINTS, endpoint=False)
    points = np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], axis=-1)
    return CocoOutline([_turned(points, degrees, (x, y)).ravel().tolist()], stated)


def with_boxes(shapes: Sequence[Shape], use: BoxUse, path: Path, image: str) -> tuple[Shape, ...]:
    """Return objects without boxes, or with them.

    Raises:
        DatasetError: there is a box, and boxes are refused.
    """
    boxes = [shape for shape in shapes if isinstance(shape.outline, CocoOutline) and shape.outline.is_box]
    if boxes and use == "refuse":
        raise DatasetError(
            f"{path}: {short(boxes[0].label)} in image {short(image)} is a box without an outline: draw its outline, "
            "or take the pixels of boxes (--boxes draw) or leave boxes out (--boxes skip)"
        )
    return tuple(shape for shape in shapes if use != "skip" or shape not in boxes)


def unpack_brush(data: bytes, expected: int) -> npt.NDArray[np.uint8]:
    """Return the values of a brush of Label Studio.

    Args:
        data: The bytes.
        expected: Number of the values.

    Raises:
        ValueError: the bytes end early, or have another number of values.

    >>> unpack_brush(pack_brush(np.array([0, 0, 0, 255, 7, 7], np.uint8)), 6).tolist()
    [0, 0, 0, 255, 7, 7]
    """
    bits = _Bits(data)
    count, word = bits.take(32), bits.take(5) + 1
    if count != expected:
        raise ValueError(f"{count} values, expected {expected}: four for each pixel of the image")
    if word > 8:
        raise ValueError(f"values of {word} bits, expected at most 8")
    lengths = [bits.take(4) + 1 for _ in range(4)]
    values = np.zeros(count, np.uint8)
    at = 0
    while at < count:
        is_run = bits.take(1)
        stop = at + 1 + bits.take(lengths[bits.take(2)])
        if stop > count:
            raise ValueError(f"a run ends at {stop}, behind the last of {count} values")
        if is_run:
            values[at:stop] = bits.take(word)
        else:
            values[at:stop] = [bits.take(word) for _ in range(at, stop)]
        at = stop
    return values


def pack_brush(values: npt.NDArray[np.uint8]) -> bytes:
    """Return the bytes of a brush of Label Studio for its values (N,), N > 0, see `unpack_brush`."""
    pieces = [f"{len(values):032b}", f"{8 - 1:05b}", *(f"{length - 1:04b}" for length in _LENGTHS)]
    for length, value in _runs(values):
        kind = next(place for place, bits in enumerate(_LENGTHS) if length <= 2**bits)
        pieces.append(f"1{kind:02b}{length - 1:0{_LENGTHS[kind]}b}{value:08b}")
    text = "".join(pieces)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


_LENGTHS = (3, 4, 8, 16)
"""Bits of the four lengths of counts that Label Studio itself writes."""


def _runs(values: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Yield (length, value) of each run, none longer than the longest count."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    for start, stop in zip(starts, [*starts[1:], len(values)], strict=True):
        for at in range(int(start), int(stop), 2 ** _LENGTHS[-1]):
            yield min(int(stop) - at, 2 ** _LENGTHS[-1]), int(values[start])


class _Bits:
    """Reads numbers of bits, the highest bit first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, bits: int) -> int:
        """Return the next number; raise ValueError behind the end."""
        end = self._at + bits
        if end > 8 * len(self._data):
            raise ValueError("it ends too early")
        first, last = self._at // 8, (end + 7) // 8
        found = int.from_bytes(self._data[first:last], "big") >> (8 * last - end)
        self._at = end
        return found & ((1 << bits) - 1)


def _turned(points: npt.NDArray[np.float64], degrees: float, centre: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Return points (N, 2) turned clockwise, as an image is seen, about a centre."""
    if degrees == 0:  # corners keep their exact coordinates
        return points
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.asarray((points - centre) @ turn + centre)
