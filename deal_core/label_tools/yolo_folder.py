"""Segments of YOLO: data.yaml with the names, and a text file for each image with a line for each object."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deal_core.dataset.dataset import FrameRecord
from deal_core.dataset.image_files import refuse_outside
from deal_core.errors import DatasetError, short
from deal_core.files import read_lines
from deal_core.label_tools.choices import BoxUse
from deal_core.label_tools.outlines import CocoOutline, Shape, ShapeSource, with_boxes
from deal_core.text_formats import read_yaml

_LEAST = 6  # numbers of a polygon of three corners


def open_yolo(path: Path, boxes: BoxUse = "refuse") -> ShapeSource:
    """Read the segments of a folder.

    A line is the number of a class, from 0, and the corners `x y x y …` of its outline as shares of the image; a
    confidence behind them is ignored. A smaller object covers a larger one. An empty text file is an empty mask.

    Args:
        path: The folder: data.yaml, and `labels/` or text files.
        boxes: Use of lines `class x y width height`.

    Raises:
        DatasetError: there is no data.yaml or no text file, a line has another form, or it is a box where boxes are
            refused.
    """
    names = _names(path)
    folder = path / "labels" if (path / "labels").is_dir() else path
    files = [file for file in sorted(folder.rglob("*.txt")) if not file.name.startswith(".")]
    if folder == path:  # lists of images and readmes lie beside the folders of labels
        files = [file for file in files if file.parent != path] or files
    if not files:
        raise DatasetError(f"{path}: expected text files with segments in {folder}, found none")
    refuse_outside(path, *files)
    shapes = {}
    for file in files:
        name = file.relative_to(folder).with_suffix("").as_posix()
        shapes[name] = with_boxes(_shapes(file, names), boxes, file, name)
    return ShapeSource(path, shapes, smaller_on_top=True)


@dataclass(frozen=True)
class _Shares(CocoOutline):
    """Polygons whose coordinates are shares of the image."""

    def pixels(self, frame: FrameRecord, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        scale = np.array(size[::-1], np.float64)
        scaled = [(np.reshape(points, (-1, 2)) * scale).ravel().tolist() for points in self.segmentation]
        return replace(CocoOutline(scaled), stated=size).pixels(frame, size)


def _shapes(file: Path, names: dict[int, str]) -> list[Shape]:
    try:
        lines = read_lines(file)
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} cannot be read ({error}): export the segments again") from None
    found = []
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        first, *rest = line.split()
        try:
            label, numbers = names[int(first)], [float(word) for word in rest]
        except (ValueError, KeyError):
            raise DatasetError(
                f"{file} line {place}: expected `class x y x y …` with a class of data.yaml (0 to {max(names)}), found "
                f"{short(line)}"
            ) from None
        if len(numbers) < 4 or not all(math.isfinite(n) and abs(n) <= 100 for n in numbers):
            raise DatasetError(f"{file} line {place}: expected shares of the image, 0 to 1, found {short(line)}")
        if len(numbers) < _LEAST:  # and with a confidence, 5
            x, y, width, height = numbers[:4]
            left, right, top, bottom = x - width / 2, x + width / 2, y - height / 2, y + height / 2
            corners = [left, top, right, top, right, bottom, left, bottom]
            found.append(Shape(label, _Shares([corners], is_box=True)))
        else:
            found.append(Shape(label, _Shares([numbers[: len(numbers) // 2 * 2]])))
    return found


def _names(path: Path) -> dict[int, str]:
    """Return the names of the classes of data.yaml, by number."""
    file = path / "data.yaml"
    if not file.is_file():
        others = [other for other in sorted(path.glob("*.y*ml")) if not other.name.startswith(".")]
        if len(others) != 1:
            raise DatasetError(f"{path}: expected data.yaml with the names of the classes")
        file = others[0]
    refuse_outside(path, file)
    try:
        content: Any = read_yaml(file)
        names = content["names"] if isinstance(content, dict) else None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} cannot be read ({error})") from None
    except KeyError:
        names = None
    listed = dict(enumerate(names)) if isinstance(names, list) else names
    if (
        not isinstance(listed, dict)
        or not listed
        or not all(type(number) is int and isinstance(name, str) for number, name in listed.items())
    ):
        raise DatasetError(
            f"{file}: expected `names: [mug, drill]` or `names: {{0: mug, 1: drill}}`, found {short(names)}"
        )
    return listed
