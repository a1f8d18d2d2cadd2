"""Decode image messages, serialised or compressed, to RGB and depth in millimetres."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.recording.image_encodings import (
    COLOR_ENCODINGS,
    DEPTH_ENCODINGS,
    RARE_ENCODINGS,
    ImageFormatError,
    any_to_rgb,
    decode_image,
    to_depth_mm,
)
from deal_core.recording.writer import message_types
from deal_core.structures import CameraIntrinsics, UInt8Array, UInt16Array, metres_to_depth

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
STRING = "std_msgs/msg/String"

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"


@dataclass(frozen=True, eq=False)
class ColorMessage:
    """A colour image: rgb (H, W, 3) uint8."""

    stamp_ns: int
    frame_id: str
    rgb: UInt8Array


@dataclass(frozen=True, eq=False)
class DepthMessage:
    """A depth image: depth_mm (H, W) uint16, 0 = no measurement."""

    stamp_ns: int
    frame_id: str
    depth_mm: UInt16Array


def header_stamp(data: bytes) -> int:
    """Return the stamp of a serialised message that begins with a header, without decoding the message.

    Raises:
        ImageFormatError: the message is too short, or is not CDR.
    """
    if len(data) < 12 or data[0] != 0 or data[1] > 1:
        raise ImageFormatError("serialization", f"expected a CDR message with a header, found {data[:12]!r}")
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] else ">iI", data, 4)
    return int(seconds) * 10**9 + int(nanoseconds)


class MessageDecoder:
    """Decode standard messages, which are the same in all distributions since Foxy.

    Raises:
        ImageFormatError: from any method, if the message is damaged or its encoding does not fit the method.
    """

    def __init__(self) -> None:
        self._types = message_types()

    def color(self, data: bytes, kind: str) -> ColorMessage:
        """Decode a colour `Image` or `CompressedImage`."""
        message = self._decode(data, kind)
        rgb = compressed_to_rgb(message) if kind == COMPRESSED else any_to_rgb(_pixels(message), message.encoding)
        return ColorMessage(_stamp(message), message.header.frame_id, rgb)

    def depth(self, data: bytes, kind: str) -> DepthMessage:
        """Decode a depth `Image` or `CompressedImage`; 16-bit encodings stay exact.

        The unit follows from the encoding: 16 bit is millimetres, 32 bit metres.
        """
        found = self._decode(data, kind)
        depth = compressed_to_depth_mm(found) if kind == COMPRESSED else to_depth_mm(_pixels(found), found.encoding)
        return DepthMessage(_stamp(found), found.header.frame_id, depth)

    def encoding(self, data: bytes, kind: str) -> str:
        """Return the encoding or format of an image message, as in `rgb8` or `16UC1; compressedDepth png`."""
        message = self._decode(data, kind)
        return str(message.format if kind == COMPRESSED else message.encoding)

    def text(self, data: bytes) -> str:
        """Return the text of a `String` message."""
        return str(self._decode(data, STRING).data)

    def camera(self, data: bytes) -> CameraIntrinsics | None:
        """Return the intrinsics of a `CameraInfo` message; None if the camera is not calibrated."""
        return camera_of(self._decode(data, CAMERA_INFO))

    def _decode(self, data: bytes, kind: str) -> Any:
        try:
            return self._types.deserialize_cdr(data, kind)
        except Exception as error:  # rosbags raises errors of several kinds on damaged bytes
            raise ImageFormatError("serialization", f"expected a {kind}, found damaged bytes ({error})") from error


def camera_of(info: Any) -> CameraIntrinsics | None:
    """Return the intrinsics of a `CameraInfo`; None if the camera is not calibrated."""
    fx, _, cx, _, fy, cy, *_ = (float(value) for value in info.k)
    if not (np.isfinite([fx, fy, cx, cy]).all() and fx > 0 and fy > 0):
        return None
    return CameraIntrinsics(
        width=int(info.width),
        height=int(info.height),
        fx=fx,
        fy=fy,
        cx=cx,
        cy=cy,
        distortion=tuple(float(value) for value in info.d),
        distortion_model=str(info.distortion_model),
        frame_id=str(info.header.frame_id),
    )


def is_color_encoding(kind: str, encoding: str) -> bool:
    """Return whether an image message with this encoding (or compression format) contains colour or grey pixels."""
    if kind == COMPRESSED:
        return "compressedDepth" not in encoding and encoding.split(";")[0].strip() not in DEPTH_ENCODINGS
    return encoding in COLOR_ENCODINGS or encoding in RARE_ENCODINGS


def is_depth_encoding(kind: str, encoding: str) -> bool:
    """Return whether an image message with this encoding (or compression format) contains exact depth."""
    if kind == COMPRESSED:
        lossless = "compressedDepth" in encoding or "png" in encoding
        return lossless and (encoding.split(";")[0].strip() or "16UC1") in DEPTH_ENCODINGS
    return encoding in DEPTH_ENCODINGS


def compressed_to_rgb(message: Any) -> UInt8Array:
    """Return (H, W, 3) uint8 RGB of the JPEG or PNG in a colour `CompressedImage`.

    Raises:
        ImageFormatError: the format is not a colour format, or the data is truncated or damaged.
    """
    if not is_color_encoding(COMPRESSED, message.format):
        raise ImageFormatError(
            "unknown_encoding", f"expected a compressed colour image, found format '{message.format}'"
        )
    data = _complete(message.data.tobytes(), message.format)
    pixels = _decode_file(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, message.format)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def compressed_to_depth_mm(message: Any) -> UInt16Array:
    """Return (H, W) uint16 millimetres of the PNG in a depth `CompressedImage`, 0 = no measurement.

    compressedDepth is 12 bytes of settings and a PNG; the `compressed` topic has a plain 16-bit PNG. The settings are
    (format, a, b); 32FC1 depth is stored as 16-bit inverse depth, metres = a / (value - b).

    Raises:
        ImageFormatError: the format is not exact depth, or the data is truncated or damaged.
    """
    data, form = message.data.tobytes(), str(message.format)
    encoding = form.split(";")[0].strip() or "16UC1"
    if not is_depth_encoding(COMPRESSED, form):
        raise ImageFormatError(
            "unknown_encoding", f"expected depth as compressedDepth or 16-bit PNG, found format '{form}'"
        )
    start = data[:64].find(_PNG)
    if start < 0:
        raise ImageFormatError(
            "unknown_encoding",
            f"expected a PNG in the depth message of format '{form}', found none; "
            "record with the parameter compressedDepth.format:=png",
        )
    stored = _decode_file(_complete(data[start:], form), cv2.IMREAD_UNCHANGED, form)
    if stored.dtype != np.uint16 or stored.ndim != 2:
        raise ImageFormatError("unknown_encoding", f"expected a 16-bit depth PNG, found {stored.dtype} {stored.shape}")
    if encoding != "32FC1":
        return stored
    if start < 12:
        raise ImageFormatError("length", f"expected 12 bytes of settings before the PNG of '{form}', found {start}")
    _, a, b = struct.unpack_from("<iff", data, start - 12)
    with np.errstate(divide="ignore", invalid="ignore"):
        metres = np.where(stored > 0, a / (stored.astype(np.float32) - np.float32(b)), np.nan)
    return metres_to_depth(metres)


def _stamp(message: Any) -> int:
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def _pixels(message: Any) -> npt.NDArray[Any]:
    return decode_image(
        message.height, message.width, message.encoding, message.is_bigendian, message.step, message.data
    )


def _complete(data: bytes, form: str) -> bytes:
    """Return the file unless it is truncated: OpenCV would fill the missing rows with grey."""
    for begin, end in ((_PNG, b"IEND"), (_JPEG, b"\xff\xd9")):
        if data.startswith(begin) and end not in data[-64:]:
            raise ImageFormatError("length", f"expected a complete image of format '{form}', found a truncated one")
    return data


def _decode_file(data: bytes, flags: int, form: str) -> npt.NDArray[Any]:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ImageFormatError("undecodable", f"expected an image of format '{form}', found bytes that do not decode")
    return pixels
