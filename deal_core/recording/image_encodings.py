"""Convert raw image messages to numpy, RGB and depth, for live messages and recordings.

Example:
    >>> pixels = decode_image(1, 2, "bgr8", False, 6, bytes([0, 0, 255, 255, 0, 0]))
    >>> to_rgb(pixels, "bgr8").tolist()
    [[[255, 0, 0], [0, 0, 255]]]
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.errors import DealError
from deal_core.limits import refuse_over
from deal_core.structures import (
    BoolArray,
    Float32Array,
    UInt8Array,
    UInt16Array,
    depth_to_metres,
    metres_to_depth,
    valid_depth,
)


class ImageFormatError(DealError):
    """An image with contradicting fields, or with an encoding that cannot be used.

    Args:
        cause: a short fixed word for counters: `unknown_encoding`, `zero_size`, `odd_size`, `step`, `length`,
            `inconvertible`, `undecodable` or `serialization`.
        message: what was expected and what was found.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


@dataclass(frozen=True)
class Encoding:
    """How an image lies in memory.

    Args:
        dtype: type of its numbers.
        channels: numbers per pixel.
        to_rgb: OpenCV's conversion to RGB; None if no conversion is needed.
        share: rows and columns of pixels that share a colour: (1, 2) is 4:2:2; (2, 2) is 4:2:0, which stores colours in
            additional rows below the image, half its height.
    """

    dtype: np.dtype[Any]
    channels: int = 1
    to_rgb: int | None = None
    share: tuple[int, int] = (1, 1)


@dataclass(frozen=True, eq=False)
class RawImage:
    """The fields of a `sensor_msgs/Image`.

    Args:
        stamp_ns: time of acquisition, nanoseconds.
        frame_id: optical frame.
        height: rows H.
        width: columns W.
        encoding: encoding, as in `rgb8` or `16UC1`.
        step: bytes from one row to the next.
        data: one-dimensional bytes; they are not copied, so they must not change.
        is_bigendian: byte order of numbers wider than a byte.
    """

    stamp_ns: int
    frame_id: str
    height: int
    width: int
    encoding: str
    step: int
    data: memoryview
    is_bigendian: bool = False

    @classmethod
    def of(cls, pixels: npt.NDArray[Any], stamp_ns: int, frame_id: str, encoding: str) -> RawImage:
        """Return the image of an array, without a copy if the array is contiguous and little-endian."""
        rows = np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder("<"), copy=False)
        height, width = rows.shape[:2]
        return cls(stamp_ns, frame_id, height, width, encoding, rows.nbytes // height, rows.data.cast("B"))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.height, self.width

    def raw(self) -> RawImage:
        """Return the image itself."""
        return self

    def pixels(self) -> npt.NDArray[Any]:
        """Return the pixels, see `decode_image`."""
        return decode_image(self.height, self.width, self.encoding, self.is_bigendian, self.step, self.data)


_BYTE, _SHORT, _FLOAT = np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32)
COLOR_ENCODINGS = {
    "rgb8": Encoding(_BYTE, 3),
    "bgr8": Encoding(_BYTE, 3, cv2.COLOR_BGR2RGB),
    "rgba8": Encoding(_BYTE, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": Encoding(_BYTE, 4, cv2.COLOR_BGRA2RGB),
    "mono8": Encoding(_BYTE, 1, cv2.COLOR_GRAY2RGB),
    "8UC1": Encoding(_BYTE, 1, cv2.COLOR_GRAY2RGB),
    "8UC3": Encoding(_BYTE, 3, cv2.COLOR_BGR2RGB),  # names no colours; its publishers use OpenCV's order
    "8UC4": Encoding(_BYTE, 4, cv2.COLOR_BGRA2RGB),
}
DEPTH_ENCODINGS = {"16UC1": Encoding(_SHORT), "mono16": Encoding(_SHORT), "32FC1": Encoding(_FLOAT)}
RARE_ENCODINGS = {
    **dict.fromkeys(("yuv422", "uyvy", "yuv422_yuy2", "yuyv"), Encoding(_BYTE, 2, share=(1, 2))),
    **dict.fromkeys(("nv12", "nv21"), Encoding(_BYTE, share=(2, 2))),
    **{f"bayer_{order}8": Encoding(_BYTE) for order in ("rggb", "bggr", "gbrg", "grbg")},
    **{f"bayer_{order}16": Encoding(_SHORT) for order in ("rggb", "bggr", "gbrg", "grbg")},
    **dict.fromkeys(("rgb16", "bgr16"), Encoding(_SHORT, 3)),
    **dict.fromkeys(("rgba16", "bgra16"), Encoding(_SHORT, 4)),
}
"""Colour encodings that a library converts, see `RareConverter`."""
_PAGE_BYTES = 4096
_ENCODINGS = COLOR_ENCODINGS | DEPTH_ENCODINGS | RARE_ENCODINGS


def decode_image(
    height: int, width: int, encoding: str, is_bigendian: bool | int, step: int, data: Any
) -> npt.NDArray[Any]:
    """Return the pixels of a `sensor_msgs/Image`.

    The result is a view on `data` if possible: it keeps `data` alive, is as writable as `data`, and its rows are `step`
    bytes apart. It is a copy for a foreign byte order and for a `step` that is not a multiple of the number's size.

    Args:
        height: rows H.
        width: columns W.
        encoding: a key of `COLOR_ENCODINGS`, `DEPTH_ENCODINGS` or `RARE_ENCODINGS`.
        is_bigendian: byte order of numbers wider than a byte.
        step: bytes from one row to the next; may exceed the W pixels (padding).
        data: H * step bytes (4:2:0: H * 3 / 2 * step), or these filled up to whole pages of 4096 bytes, as anything
            with a buffer (bytes, array.array, contiguous uint8 ndarray).

    Returns:
        (H, W) for one channel, (H, W, C) for more, (H * 3 / 2, W) for 4:2:0; in the machine's byte order.

    Raises:
        ImageFormatError: the encoding is unknown, the size is zero or exceeds the limit, or is odd although pixels
            share colours, the step is smaller than a row, or the data has another length.
    """
    layout = _layout(_ENCODINGS, "an image", encoding)
    if height <= 0 or width <= 0:
        raise ImageFormatError("zero_size", f"expected an image with pixels, found {width}x{height}")
    pixel = layout.dtype.itemsize * layout.channels
    if step < width * pixel:
        raise ImageFormatError(
            "step", f"expected a step of at least {width * pixel} bytes ({width} pixels of {encoding}), found {step}"
        )
    refuse_over("image_pixels", height * width, f"pixels ({width}x{height})", partial(ImageFormatError, "length"))
    if height % layout.share[0] or width % layout.share[1]:
        raise ImageFormatError("odd_size", f"expected even sizes for encoding '{encoding}', found {width}x{height}")
    buffer, rows = memoryview(data), height * 3 // 2 if layout.share[0] == 2 else height
    # Some drivers pass on their whole buffer, which ends with a page of memory.
    fills_pages = buffer.nbytes % _PAGE_BYTES == 0 and 0 < buffer.nbytes - rows * step < _PAGE_BYTES
    if buffer.nbytes != rows * step and not fills_pages:
        raise ImageFormatError(
            "length", f"expected {rows * step} bytes of data ({rows} rows of {step} bytes), found {buffer.nbytes}"
        )
    dtype = layout.dtype.newbyteorder(">" if is_bigendian else "<")
    shape: tuple[int, ...] = (rows, width)
    strides: tuple[int, ...] = (step, pixel)
    if layout.channels > 1:
        shape, strides = (*shape, layout.channels), (*strides, layout.dtype.itemsize)
    pixels: npt.NDArray[Any] = np.ndarray(shape, dtype, buffer, strides=strides)
    if step % layout.dtype.itemsize:
        pixels = pixels.copy()
    return pixels.astype(layout.dtype, copy=False)


def to_rgb(pixels: npt.NDArray[Any], encoding: str) -> UInt8Array:
    """Return (H, W, 3) uint8 RGB; no copy for `rgb8`, alpha is dropped, grey is repeated.

    Raises:
        ImageFormatError: the encoding is not one of `COLOR_ENCODINGS`.
    """
    layout = _layout(COLOR_ENCODINGS, "a colour", encoding)
    if layout.to_rgb is None:
        return pixels
    return np.asarray(cv2.cvtColor(pixels, layout.to_rgb), np.uint8)


def to_depth_mm(pixels: npt.NDArray[Any], encoding: str) -> UInt16Array:
    """Return (H, W) uint16 millimetres, 0 = no measurement; no copy for 16-bit encodings.

    The unit follows from the encoding: 16-bit depth is in millimetres, 32-bit depth in metres, where nan, infinity and
    values of at most 0 mean no measurement.

    Raises:
        ImageFormatError: the encoding is not one of `DEPTH_ENCODINGS`.
    """
    return metres_to_depth(pixels) if is_metres(encoding) else pixels


def to_depth_m(pixels: npt.NDArray[Any], encoding: str) -> tuple[Float32Array, BoolArray]:
    """Return (H, W) float32 metres, 0 where nothing was measured, and (H, W) bool where depth was measured.

    Raises:
        ImageFormatError: the encoding is not one of `DEPTH_ENCODINGS`.
    """
    if not is_metres(encoding):
        return depth_to_metres(pixels)
    valid = valid_depth(pixels)
    return np.where(valid, pixels, np.float32(0)), valid


def is_metres(encoding: str) -> bool:
    """Return whether a depth encoding has floating-point metres, and not 16-bit numbers.

    Raises:
        ImageFormatError: the encoding is not one of `DEPTH_ENCODINGS`.
    """
    return _layout(DEPTH_ENCODINGS, "a depth", encoding).dtype == _FLOAT


class RareConverter(Protocol):
    """A converter for some of `RARE_ENCODINGS`."""

    encodings: Collection[str]

    def to_rgb(self, pixels: npt.NDArray[Any], encoding: str) -> UInt8Array:
        """Return (H, W, 3) uint8 RGB of contiguous pixels in the form of `decode_image`.

        Raises:
            ImageFormatError: the image cannot be converted.
        """


class RosbagsConverter:
    """Converts all of `RARE_ENCODINGS` with `rosbags-image`."""

    encodings: Collection[str] = RARE_ENCODINGS

    def to_rgb(self, pixels: npt.NDArray[Any], encoding: str) -> UInt8Array:
        """Return (H, W, 3) uint8 RGB; an `ImageFormatError` if the library refuses the image."""
        from rosbags.image import ImageError
        from rosbags.image.image import convert_color

        try:
            return np.asarray(convert_color(pixels, encoding, "rgb8"), np.uint8)
        except (cv2.error, ImageError) as error:
            raise inconvertible(pixels, encoding, error) from error


def any_to_rgb(
    pixels: npt.NDArray[Any], encoding: str, converters: Sequence[RareConverter] = (RosbagsConverter(),)
) -> UInt8Array:
    """Return (H, W, 3) uint8 RGB of pixels in any colour encoding; no copy for `rgb8`.

    Args:
        pixels: pixels in the form of `decode_image`.
        encoding: a key of `COLOR_ENCODINGS` or `RARE_ENCODINGS`.
        converters: converters for rare encodings; the first that knows the encoding is used.

    Raises:
        ImageFormatError: the encoding is not a colour encoding, or the library refuses the image.
    """
    converter = next((c for c in converters if encoding in c.encodings), None)
    if converter is None:
        return to_rgb(pixels, encoding)
    return converter.to_rgb(np.ascontiguousarray(pixels), encoding)


def inconvertible(pixels: npt.NDArray[Any], encoding: str, error: Exception) -> ImageFormatError:
    """Return the error for an image that its library refuses."""
    return ImageFormatError(
        "inconvertible",
        f"expected an image of encoding '{encoding}', found {pixels.shape}, which cannot be converted ({error})",
    )


def _layout(known: Mapping[str, Encoding], kind: str, encoding: str) -> Encoding:
    if encoding not in known:
        raise ImageFormatError(
            "unknown_encoding", f"expected {kind} encoding of {', '.join(known)}; found '{encoding}'"
        )
    return known[encoding]
