"""Masks in the XML of CVAT for images 1.1: masks, polygons, ellipses and boxes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from deal_core.errors import DatasetError, short
from deal_core.label_tools.choices import BoxUse
from deal_core.label_tools.outlines import Outline, RowRuns, Shape, ShapeSource, box, ellipse, polygon, with_boxes
from deal_core.limits import read_bytes

_Element = ElementTree.Element


def open_cvat(path: Path, boxes: BoxUse = "refuse") -> ShapeSource:
    """Read annotations.xml of CVAT's export "CVAT for images 1.1".

    Of several objects at a pixel, the one with the highest z_order counts, and of these the later one. Points, lines,
    cuboids and skeletons have no area; the notes count them.

    Args:
        path: The file.
        boxes: Use of boxes.

    Raises:
        DatasetError: the file cannot be read, is of another form (as that of "CVAT for video"), or has a box where
            boxes are refused.
    """
    try:
        root = ElementTree.fromstring(read_bytes(path))  # expat bounds entities  # nosec B314
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: unknown encodings
        raise DatasetError(f"{path} cannot be read ({error}): export it as 'CVAT for images 1.1'") from None
    if root.tag != "annotations" or root.find("track") is not None:
        found = "tracks, as in 'CVAT for video'" if root.tag == "annotations" else f"<{root.tag[:80]}>"
        raise DatasetError(
            f"{path}: expected <annotations> with images, found {found}: export as 'CVAT for images 1.1'"
        )
    shapes: dict[str, tuple[Shape, ...]] = {}
    passed_over: Counter[str] = Counter()
    for image in root.findall("image"):
        name = image.get("name")
        if not name or name in shapes:
            raise DatasetError(f"{path}: expected a name of its own of each image, found {short(name)}")
        drawn = []
        for element in sorted(image, key=lambda element: _whole(element, "z_order", path, name, 0)):
            if element.tag not in _READERS:
                passed_over[element.tag[:80]] += 1
                continue
            label = element.get("label")
            if not label:
                raise DatasetError(f"{path}: a {element.tag} in image {short(name)} has no label")
            drawn.append(Shape(label, _outline(element, image, path, name)))
        shapes[name] = with_boxes(drawn, boxes, path, name)
    notes = [f"{count} of the kind {kind} have no area" for kind, count in passed_over.items() if kind != "tag"]
    return ShapeSource(path, shapes, tuple(notes))


def _outline(element: _Element, image: _Element, path: Path, name: str) -> Outline:
    stated = _whole(image, "height", path, name), _whole(image, "width", path, name)
    if min(stated) < 1:
        raise DatasetError(f"{path}: expected the width and height of image {short(name)}, found {stated[::-1]}")
    try:
        return _READERS[element.tag](_Attributes(element, path, name), stated)
    except ValueError as error:
        raise DatasetError(f"{path}: in image {short(name)}: {error}") from None


class _Attributes:
    """Reads the attributes of an element as numbers."""

    def __init__(self, element: _Element, path: Path, name: str) -> None:
        self._element, self._path, self._name = element, path, name

    def whole(self, key: str) -> int:
        return _whole(self._element, key, self._path, self._name)

    def number(self, key: str, default: str | None = None) -> float:
        return _number(self._element.get(key, default), key, self._path, self._name)

    def numbers(self, key: str) -> list[float]:
        parts = (self._element.get(key) or "").replace(";", ",").split(",")
        return [_number(part, key, self._path, self._name) for part in parts]

    def wholes(self, key: str) -> list[int]:
        return [int(number) for number in self.numbers(key)]


def _polygon(given: _Attributes, stated: tuple[int, int]) -> Outline:
    numbers = given.numbers("points")
    return polygon(list(zip(numbers[::2], numbers[1::2], strict=False)), stated)


def _mask(given: _Attributes, stated: tuple[int, int]) -> Outline:
    left, top, width, height = (given.whole(key) for key in ("left", "top", "width", "height"))
    return RowRuns(given.wholes("rle"), left, top, width, height, stated)


def _box(given: _Attributes, stated: tuple[int, int]) -> Outline:
    left, top, right, bottom = (given.number(key) for key in ("xtl", "ytl", "xbr", "ybr"))
    return box(left, top, right, bottom, given.number("rotation", "0"), stated=stated)


def _ellipse(given: _Attributes, stated: tuple[int, int]) -> Outline:
    x, y, across, down = (given.number(key) for key in ("cx", "cy", "rx", "ry"))
    return ellipse(x, y, across, down, given.number("rotation", "0"), stated=stated)


_READERS: dict[str, Callable[[_Attributes, tuple[int, int]], Outline]] = {
    "polygon": _polygon,
    "mask": _mask,
    "box": _box,
    "ellipse": _ellipse,
}


def _number(text: str | None, key: str, path: Path, name: str) -> float:
    try:
        found = float(text or "")
        if math.isfinite(found) and abs(found) < 2**40:
            return found
    except ValueError:
        pass
    raise DatasetError(f"{path}: expected a number as {key} in image {short(name)}, found {short(text)}")


def _whole(element: _Element, key: str, path: Path, name: str, default: int | None = None) -> int:
    text = element.get(key)
    return default if text is None and default is not None else int(_number(text, key, path, name))
