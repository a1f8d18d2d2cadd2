"""What the numbers of a depth image mean, and whether they can be true."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.errors import UsageError
from deal_core.recording.image_encodings import is_metres, to_depth_m, to_depth_mm
from deal_core.structures import BoolArray, Float32Array, UInt16Array, metres_to_depth, valid_depth

_UNIT = re.compile(r"(\d*\.?\d+(?:[eE]-?\d+)?)?\s*(m|cm|mm|um)?")
_METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6}
_FURTHEST_M = 1000.0

# Limits of what a depth camera measures.
_NEAREST_M, _FAR_M, _NEVER_M, _NEAR_SCENE_M = 0.02, 20.0, 65.535, 4.0
_MANY = 16  # valid pixels from which a sample is judged
_SAMPLE = 4096  # pixels looked at in each image
_MARKER = 65535  # the largest 16-bit number, which some drivers write where nothing came back
_MARKED = 0.001  # share of such pixels


@dataclass(frozen=True)
class DepthValues:
    """How to read the numbers of depth images.

    Attributes:
        unit: unit of the numbers: "auto" (16-bit numbers are millimetres, 32-bit numbers metres), or a unit such as
            "m", "mm", "0.1mm" or "0.00025m".
        max_m: greatest depth that is a measurement, metres; 0 is no limit.

    Raises:
        UsageError: the unit is not one, or the greatest depth is out of range.
    """

    unit: str = "auto"
    max_m: float = 0.0

    def __post_init__(self) -> None:
        parse_depth_unit(self.unit)
        if not 0 <= self.max_m <= _FURTHEST_M:
            raise UsageError(f"the greatest depth must be 0 (no limit) to {_FURTHEST_M:g} m, found {self.max_m:g}")

    def unit_of(self, encoding: str) -> str:
        """Return the unit of images with an encoding, as in "mm"."""
        return self.unit if self.unit != "auto" else ("m" if is_metres(encoding) else "mm")

    def to_mm(self, pixels: npt.NDArray[Any], encoding: str) -> UInt16Array:
        """Return (H, W) uint16 millimetres, 0 = no measurement; no copy of 16-bit millimetres without a limit.

        Raises:
            ImageFormatError: the encoding is not a depth encoding.
        """
        if self._is_usual(encoding):
            millimetres = to_depth_mm(pixels, encoding)
        else:
            millimetres = metres_to_depth(self._scaled(pixels))
        if self.max_m and self.max_m < _NEVER_M:
            return np.where(millimetres > round(self.max_m * 1000), np.uint16(0), millimetres)
        return millimetres

    def to_m(self, pixels: npt.NDArray[Any], encoding: str) -> tuple[Float32Array, BoolArray]:
        """Return (H, W) float32 metres, 0 where nothing was measured, and (H, W) bool where depth was measured.

        Raises:
            ImageFormatError: the encoding is not a depth encoding.
        """
        depth, valid = to_depth_m(pixels, encoding) if self._is_usual(encoding) else (self._scaled(pixels), None)
        if valid is None or self.max_m:
            valid = valid_depth(depth) & (depth <= (self.max_m or np.inf))
            depth = np.where(valid, depth, np.float32(0))
        return depth, valid

    def valid_share(self, pixels: npt.NDArray[Any], encoding: str) -> float:
        """Return the share of pixels where depth was measured, as `to_m` has it; 16-bit numbers are only counted.

        Raises:
            ImageFormatError: the encoding is not a depth encoding.
        """
        if is_metres(encoding):
            return float(self.to_m(pixels, encoding)[1].mean())
        highest = _highest_valid(self, encoding)
        if highest == _MARKER:
            return cv2.countNonZero(pixels) / pixels.size
        # 0 becomes 65535, and so is not counted.
        return np.count_nonzero(pixels - np.uint16(1) < np.uint16(highest)) / pixels.size

    def sample(self, pixels: npt.NDArray[Any], encoding: str) -> DepthSample:
        """Return a small sample of an image's depths, before any limit."""
        rows, columns = pixels.shape
        step = max(1, int(np.sqrt(rows * columns / _SAMPLE)))
        few = pixels[::step, ::step]
        usual = 1.0 if is_metres(encoding) else 1e-3
        scale = (parse_depth_unit(self.unit) or usual) if self.unit != "auto" else usual
        metres = few.astype(np.float32) * np.float32(scale)
        marked = np.count_nonzero(few == _MARKER) / few.size if few.dtype == np.uint16 else 0.0
        return DepthSample(metres[valid_depth(metres)], few.size, marked)

    def _is_usual(self, encoding: str) -> bool:
        return self.unit == "auto" or self.unit == ("m" if is_metres(encoding) else "mm")

    def _scaled(self, pixels: npt.NDArray[Any]) -> Float32Array:
        return pixels.astype(np.float32) * np.float32(parse_depth_unit(self.unit) or 1.0)


@lru_cache(maxsize=16)
def _highest_valid(values: DepthValues, encoding: str) -> int:
    """Return the largest 16-bit number that is a measurement; 0 if none is. All smaller ones but 0 are, too."""
    return int(values.to_m(np.arange(_MARKER + 1, dtype=np.uint16), encoding)[1].sum())


@dataclass(frozen=True, eq=False)
class DepthReading:
    """A depth image that is converted only as far as it is needed.

    Args:
        pixels: (H, W) numbers of the image.
        encoding: their encoding.
        values: how to read them.

    Raises:
        ImageFormatError: the encoding is not a depth encoding.
    """

    pixels: npt.NDArray[Any]
    encoding: str
    values: DepthValues

    def __post_init__(self) -> None:
        is_metres(self.encoding)

    def metres(self) -> Float32Array:
        """Return (H, W) float32 metres, 0 where nothing was measured."""
        return self.values.to_m(self.pixels, self.encoding)[0]

    def valid_share(self) -> float:
        """Return the share of pixels where depth was measured."""
        return self.values.valid_share(self.pixels, self.encoding)

    def sample(self) -> DepthSample:
        """Return a small sample of the depths, before any limit."""
        return self.values.sample(self.pixels, self.encoding)


def parse_depth_unit(text: str) -> float | None:
    """Return the metres of one unit of depth: "mm" is 0.001, "0.1mm" is 0.0001; None for "auto".

    Raises:
        UsageError: the text is not a unit.
    """
    if text == "auto":
        return None
    match = _UNIT.fullmatch(text.strip())
    number, name = match.groups() if match else (None, None)
    if number is None and name is None:
        raise UsageError(f"expected a unit of depth, as in auto, m, mm, 0.1mm or 0.00025m; found '{text}'")
    metres = float(number or 1) * _METRES[name or "m"]
    if not 1e-7 < metres <= 10:
        raise UsageError(f"expected a unit of depth between 0.1 um and 10 m, found '{text}'")
    return metres


@dataclass(frozen=True, eq=False)
class DepthSample:
    """A sample of one image: its valid depths in metres, the number of sampled pixels, and the share of 65535."""

    metres: Float32Array
    size: int
    marked: float = 0.0

    @property
    def doubts(self) -> list[DepthDoubt]:
        """Why these depths cannot be true, or may not be; empty if nothing is odd or too little is valid."""
        found = [DepthDoubt.MARKED] if self.marked > _MARKED else []
        if len(self.metres) < _MANY:
            return found
        if len(self.metres) == self.size and self.metres.min() == self.metres.max():
            return [*found, DepthDoubt.CONSTANT]  # not measured, so its unit cannot be judged
        last = len(self.metres) - 1
        places = [last // 100, last // 2, last - last // 100]
        nearest, middle, furthest = np.partition(self.metres, places)[places]  # np.quantile takes ten times as long
        if furthest < _NEAREST_M:
            found.append(DepthDoubt.TOO_NEAR)
        elif nearest > _NEVER_M:
            found.append(DepthDoubt.TOO_FAR)
        elif middle > _FAR_M:
            found.append(DepthDoubt.FAR)
        elif nearest > _NEAR_SCENE_M:
            found.append(DepthDoubt.NOTHING_NEAR)
        return found


class DepthDoubt(str, Enum):
    """Why the depths of an image cannot be true, or may not be."""

    TOO_NEAR = "all depth is nearer than 2 cm, which no camera measures: the unit is likely metres (--depth-unit m)"
    TOO_FAR = "all depth is beyond 65 m, which no camera measures: the unit is likely millimetres (--depth-unit mm)"
    FAR = (
        "more than half of the depth is beyond 20 m: the unit may be another (0.1 mm: --depth-unit 0.1mm), or far "
        "values mean that nothing was measured (--max-depth 20)"
    )
    NOTHING_NEAR = (
        "no depth is nearer than 4 m: if the scene was nearer, the unit is another, such as 0.1 mm (--depth-unit 0.1mm)"
    )
    MARKED = (
        "pixels have the value 65535, which some drivers write where nothing came back: leave them out with a greatest "
        "depth (--max-depth 20)"
    )
    CONSTANT = "the depth image is constant: every pixel has the same value, so it was not measured"

    @property
    def is_certain(self) -> bool:
        """Whether no camera gives such depth."""
        return self in (DepthDoubt.TOO_NEAR, DepthDoubt.TOO_FAR)

    @property
    def as_parameter(self) -> str:
        """The sentence with the options of the ROS nodes instead of those of the commands."""
        text = self.value.replace("--depth-unit ", "depth_unit:=").replace("--max-depth ", "max_depth_m:=")
        return text.replace("max_depth_m:=20", "max_depth_m:=20.0")


@dataclass
class DepthCensus:
    """What is odd about the depth of many images.

    Attributes:
        images: number of images that were looked at.
        doubts: number of images for each doubt.
    """

    images: int = 0
    doubts: Counter[DepthDoubt] = field(default_factory=Counter)

    def see(self, sample: DepthSample) -> None:
        """Add an image."""
        self.images += 1
        self.doubts.update(sample.doubts)

    def findings(self) -> tuple[list[str], list[str]]:
        """Return notes and errors: doubts about one image in ten, and depth of most images that cannot be true."""
        notes, errors = [], []
        for doubt, count in self.doubts.items():
            text = f"depth of {count} of {self.images} images: {doubt.value}"
            if doubt.is_certain and count > self.images / 2:
                errors.append(text)
            elif count >= self.images / 10:
                notes.append(text)
        return notes, errors
