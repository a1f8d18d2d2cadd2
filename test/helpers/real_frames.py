"""Real frames of a depth camera, in the layout of YCB-Video (Xiang et al., PoseCNN).

    image_sets/classes.txt         a class a line
    data/*/NNNNNN-color.png        (H, W, 3) uint8
    data/*/NNNNNN-depth.png        (H, W) uint16, 10000 units a metre, 0 where unknown
    data/*/NNNNNN-label.png        (H, W) uint8, 0 background, n the class of line n

The first frames of the first sequence are read, whatever its name, the size of its images and its classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from deal_core.structures import CameraIntrinsics, ClassList, RgbdPair

FEWEST, MOST = 2, 10
_UNITS_PER_MM = 10
_BEGIN_NS, _PERIOD_NS = 1_700_000_000_000_000_000, 33_333_333
_CAMERA = CameraIntrinsics(640, 480, 1066.778, 1067.487, 312.9869, 241.3109)
"""The camera of YCB-Video's first sequences."""


class LayoutError(Exception):
    """The folder has another layout; the message names what was expected."""


@dataclass(frozen=True)
class RealFrames:
    """Frames of one sequence: pairs in millimetres, drawn masks, classes and camera."""

    pairs: list[RgbdPair]
    masks: list[np.ndarray]
    classes: ClassList
    camera: CameraIntrinsics

    def visible(self, index: int) -> list[str]:
        """Return the names of the classes in the mask of a frame."""
        return [self.classes.names[i - 1] for i in np.unique(self.masks[index]) if i]


def read_real_frames(folder: Path) -> RealFrames:
    """Read the first frames of the first sequence.

    Raises:
        LayoutError: a file is missing or is not as the layout has it.
    """
    names = _read_classes(folder / "image_sets" / "classes.txt")
    colors = _first_sequence(folder)
    pairs, masks = [], []
    for index, file in enumerate(colors):
        color, depth, mask = _read_frame(file)
        if mask.max() > len(names):
            raise LayoutError(
                f"{_beside(file, 'label')}: expected ids up to {len(names)}, the classes, found {mask.max()}"
            )
        if pairs and color.shape != pairs[0].color.shape:
            raise LayoutError(f"{file}: expected the size of {colors[0].name}, found {_size(color)}")
        stamp_ns = _BEGIN_NS + index * _PERIOD_NS
        pairs.append(RgbdPair(stamp_ns, color, (depth // _UNITS_PER_MM).astype(np.uint16)))
        masks.append(mask)
    return RealFrames(pairs, masks, ClassList(tuple(names)), _camera(*masks[0].shape))


def _read_classes(file: Path) -> list[str]:
    if not file.is_file():
        raise LayoutError(f"{file}: expected a file with the name of a class in each line, found none")
    return file.read_text().split()


def _first_sequence(folder: Path) -> list[Path]:
    for sequence in sorted((folder / "data").glob("*/")):
        if files := sorted(sequence.glob("*-color.png")):
            if len(files) < FEWEST:
                raise LayoutError(f"{sequence}: expected {FEWEST} or more NNNNNN-color.png, found {len(files)}")
            return files[:MOST]
    raise LayoutError(f"{folder}: expected frames data/*/NNNNNN-color.png, found none")


def _read_frame(color_file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return colour, depth and mask of a frame."""
    color = _read_image(color_file, np.uint8, channels=3)
    depth = _read_image(_beside(color_file, "depth"), np.uint16, channels=1)
    mask = _read_image(_beside(color_file, "label"), np.uint8, channels=1)
    if not color.shape[:2] == depth.shape == mask.shape:
        sizes = ", ".join(map(_size, (color, depth, mask)))
        raise LayoutError(f"{color_file}: expected colour, depth and label of one size, found {sizes}")
    return cv2.cvtColor(color, cv2.COLOR_BGR2RGB), depth, mask


def _read_image(file: Path, kind: type, channels: int) -> np.ndarray:
    image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED) if file.is_file() else None
    if image is None:
        raise LayoutError(f"{file}: expected an image, found none that can be read")
    found = 1 if image.ndim == 2 else image.shape[2]
    if (image.dtype, found) != (kind, channels):
        raise LayoutError(f"{file}: expected {channels} channels of {np.dtype(kind)}, found {found} of {image.dtype}")
    return image


def _beside(color_file: Path, name: str) -> Path:
    return color_file.with_name(color_file.name.removesuffix("-color.png") + f"-{name}.png")


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _camera(height: int, width: int) -> CameraIntrinsics:
    """Return the camera for images of another size that show as much."""
    x, y = width / _CAMERA.width, height / _CAMERA.height
    return CameraIntrinsics(width, height, _CAMERA.fx * x, _CAMERA.fy * y, _CAMERA.cx * x, _CAMERA.cy * y)
