"""The fields of a raw image message as numpy, and numpy as RGB or depth. One place for live messages and bags.

Example:
    >>> pixels = decode_image(1, 2, "bgr8", False, 6, bytes([0, 0, 255, 255, 0, 0]))
    >>> to_rgb(pixels, "bgr8").tolist()
    [[[255, 0, 0], [0, 0, 255]]]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.data.sample import BoolArray, Float32Array, UInt8Array, UInt16Array, depth_to_metres, metres_to_depth
from deal_core.errors import DealError


class ImageFormatError(DealError):
    """An image whose fields contradict each other, or whose encoding cannot be used.

    Args:
        cause: a short fixed word for counters: `unknown_encoding`, `zero_size`, `step` or `length`.
        message: what was expected and what was found.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


@dataclass(frozen=True)
class Encoding:
    """How one pixel lies in memory: its scalar type, its channels, and the OpenCV conversion to RGB."""

    dtype: np.dtype[Any]
    channels: int = 1
    to_rgb: int | None = None


_BYTE, _SHORT, _FLOAT = np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32)
COLOR_ENCODINGS = {
    "rgb8": Encoding(_BYTE, 3),
    "bgr8": Encoding(_BYTE, 3, cv2.COLOR_BGR2RGB),
    "rgba8": Encoding(_BYTE, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": Encoding(_BYTE, 4, cv2.COLOR_BGRA2RGB),
    "mono8": Encoding(_BYTE, 1, cv2.COLOR_GRAY2RGB),
    "8UC1": Encoding(_BYTE, 1, cv2.COLOR_GRAY2RGB),
}
DEPTH_ENCODINGS = {"16UC1": Encoding(_SHORT), "mono16": Encoding(_SHORT), "32FC1": Encoding(_FLOAT)}
_ENCODINGS = COLOR_ENCODINGS | DEPTH_ENCODINGS


def decode_image(
    height: int, width: int, encoding: str, is_bigendian: bool | int, step: int, data: Any
) -> npt.NDArray[Any]:
    """Return the pixels of a `sensor_msgs/Image`, whoever read the message.

    The result is a view on `data` wherever it can be one: it keeps `data` alive, is as writable as `data` is,
    and its rows are `step` bytes apart. It is a copy for foreign byte order and for a `step` that would leave
    rows at fractions of a number.

    Args:
        height: rows H.
        width: columns W.
        encoding: a key of `COLOR_ENCODINGS` or `DEPTH_ENCODINGS`.
        is_bigendian: byte order of numbers wider than a byte.
        step: bytes from one row to the next; may exceed the W pixels (padding).
        data: H * step bytes as anything with a buffer (bytes, array.array, contiguous uint8 ndarray).

    Returns:
        (H, W) for one channel, (H, W, C) for more, in the machine's byte order.

    Raises:
        ImageFormatError: unknown encoding, zero size, a step smaller than a row, or data of another length.
    """
    layout = _ENCODINGS.get(encoding)
    if layout is None:
        raise ImageFormatError(
            "unknown_encoding", f"expected an image encoding of {', '.join(_ENCODINGS)}; found '{encoding}'"
        )
    if height <= 0 or width <= 0:
        raise ImageFormatError("zero_size", f"expected an image with pixels, found {width}x{height}")
    pixel = layout.dtype.itemsize * layout.channels
    if step < width * pixel:
        raise ImageFormatError(
            "step",
            f"expected a step of at least {width * pixel} bytes ({width} pixels of {encoding}), found {step}",
        )
    buffer = memoryview(data)
    if buffer.nbytes != height * step:
        raise ImageFormatError(
            "length",
            f"expected {height * step} bytes of data ({height} rows of {step} bytes), found {buffer.nbytes}",
        )
    dtype = layout.dtype.newbyteorder(">" if is_bigendian else "<")
    shape: tuple[int, ...] = (height, width)
    strides: tuple[int, ...] = (step, pixel)
    if layout.channels > 1:
        shape, strides = (*shape, layout.channels), (*strides, layout.dtype.itemsize)
    pixels: npt.NDArray[Any] = np.ndarray(shape, dtype, buffer, strides=strides)
    if step % layout.dtype.itemsize:
        pixels = pixels.copy()
    return pixels.astype(layout.dtype, copy=False)


def to_rgb(pixels: npt.NDArray[Any], encoding: str) -> UInt8Array:
    """Return (H, W, 3) uint8 RGB; the same memory for `rgb8`, alpha is dropped, grey is repeated.

    Raises:
        ImageFormatError: the encoding is not one of `COLOR_ENCODINGS`.
    """
    layout = COLOR_ENCODINGS.get(encoding)
    if layout is None:
        raise ImageFormatError(
            "unknown_encoding", f"expected a colour encoding of {', '.join(COLOR_ENCODINGS)}; found '{encoding}'"
        )
    if layout.to_rgb is None:
        return pixels
    return np.asarray(cv2.cvtColor(pixels, layout.to_rgb), np.uint8)


def to_depth_mm(pixels: npt.NDArray[Any], encoding: str) -> UInt16Array:
    """Return (H, W) uint16 millimetres, 0 = no measurement; the same memory for 16-bit encodings.

    The unit follows from the encoding: 16-bit depth is millimetres, 32-bit is metres with nan, infinity and
    anything not positive meaning no measurement.

    Raises:
        ImageFormatError: the encoding is not one of `DEPTH_ENCODINGS`.
    """
    return metres_to_depth(pixels) if _is_metres(encoding) else pixels


def to_depth_m(pixels: npt.NDArray[Any], encoding: str) -> tuple[Float32Array, BoolArray]:
    """Return (H, W) float32 metres, 0 where nothing was measured, and (H, W) bool where something was.

    Raises:
        ImageFormatError: the encoding is not one of `DEPTH_ENCODINGS`.
    """
    if not _is_metres(encoding):
        return depth_to_metres(pixels)
    valid = np.isfinite(pixels) & (pixels > 0)
    return np.where(valid, pixels, np.float32(0)), valid


def _is_metres(encoding: str) -> bool:
    layout = DEPTH_ENCODINGS.get(encoding)
    if layout is None:
        raise ImageFormatError(
            "unknown_encoding", f"expected a depth encoding of {', '.join(DEPTH_ENCODINGS)}; found '{encoding}'"
        )
    return layout.dtype == _FLOAT
