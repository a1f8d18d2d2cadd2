"""Image messages, serialised or compressed, as RGB and as depth in millimetres."""

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
from deal_core.structures import CameraIntrinsics, UInt8Array, UInt16Array, metres_to_depth

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
STRING = "std_msgs/msg/String"

_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


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
    """Return the acquisition stamp of any serialised message that begins with a header, without decoding it.

    Raises:
        ImageFormatError: the message is too short, or is not CDR.
    """
    if len(data) < 12 or data[0] != 0 or data[1] > 1:
        raise ImageFormatError("serialization", f"expected a CDR message with a header, found {data[:12]!r}")
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] else ">iI", data, 4)
    return int(seconds) * 10**9 + int(nanoseconds)


class MessageDecoder:
    """Decode the standard messages of a recording; they are the same in all distributions since Foxy."""

    def __init__(self) -> None:
        from rosbags.typesys import Stores, get_typestore

        self._types = get_typestore(Stores.ROS2_HUMBLE)

    def color(self, data: bytes, kind: str) -> ColorMessage:
        """Decode a colour `Image` or `CompressedImage`.

        Raises:
            ImageFormatError: the message is damaged, or its encoding is not one of a colour image.
        """
        message = self._decode(data, kind)
        rgb = compressed_to_rgb(message) if kind == COMPRESSED else _color_raw(message)
        return ColorMessage(_stamp(message), message.header.frame_id, rgb)

    def depth(self, data: bytes, kind: str) -> DepthMessage:
        """Decode a depth `Image` or `CompressedImage` to the bit for 16-bit encodings.

        The unit follows from the encoding: 16 bit is millimetres, 32 bit metres.

        Raises:
            ImageFormatError: the message is damaged, or its encoding is not one of a depth image.
        """
        message = self._decode(data, kind)
        depth = compressed_to_depth_mm(message) if kind == COMPRESSED else _depth_raw(message)
        return DepthMessage(_stamp(message), message.header.frame_id, depth)

    def encoding(self, data: bytes, kind: str) -> str:
        """Return what an image message says it holds, as in `rgb8` or `16UC1; compressedDepth png`.

        Raises:
            ImageFormatError: the message is damaged.
        """
        message = self._decode(data, kind)
        return str(message.format if kind == COMPRESSED else message.encoding)

    def text(self, data: bytes) -> str:
        """Return the text of a `String` message.

        Raises:
            ImageFormatError: the message is damaged.
        """
        return str(self._decode(data, STRING).data)

    def camera(self, data: bytes) -> CameraIntrinsics | None:
        """Return the intrinsics of a `CameraInfo` message; None where the camera was not calibrated.

        Raises:
            ImageFormatError: the message is damaged.
        """
        return camera_of(self._decode(data, CAMERA_INFO))

    def _decode(self, data: bytes, kind: str) -> Any:
        try:
            return self._types.deserialize_cdr(data, kind)
        except Exception as error:  # rosbags raises errors of several kinds on damaged bytes
            raise ImageFormatError("serialization", f"expected a {kind}, found damaged bytes ({error})") from error


def camera_of(info: Any) -> CameraIntrinsics | None:
    """Return the intrinsics of a `CameraInfo`; None where the camera was not calibrated."""
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
    """Say whether an image message with this encoding (or compression format) holds colour or grey pixels."""
    if kind == COMPRESSED:
        return "compressedDepth" not in encoding and not _is_depth_name(encoding.split(";")[0].strip())
    return encoding in COLOR_ENCODINGS or encoding in RARE_ENCODINGS


def is_depth_encoding(kind: str, encoding: str) -> bool:
    """Say whether an image message with this encoding (or compression format) holds exact depth."""
    if kind == COMPRESSED:
        lossless = "compressedDepth" in encoding or "png" in encoding
        return lossless and _is_depth_name(encoding.split(";")[0].strip() or "16UC1")
    return _is_depth_name(encoding)


def compressed_to_rgb(message: Any) -> UInt8Array:
    """Return (H, W, 3) uint8 RGB of the JPEG or PNG in a colour `CompressedImage`.

    Raises:
        ImageFormatError: the format is not of a colour, or the data are cut or do not decode.
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

    compressedDepth is 12 bytes of settings, then a PNG; a plain 16-bit PNG is of the `compressed` topic. The
    settings are (format, a, b); 32FC1 depth is stored as 16-bit inverse depth, metres = a / (value - b).

    Raises:
        ImageFormatError: the format is not of exact depth, or the data are cut or do not decode.
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


def _is_depth_name(encoding: str) -> bool:
    return encoding in DEPTH_ENCODINGS


def _stamp(message: Any) -> int:
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def _pixels(message: Any) -> npt.NDArray[Any]:
    return decode_image(
        message.height, message.width, message.encoding, message.is_bigendian, message.step, message.data
    )


def _color_raw(message: Any) -> UInt8Array:
    return any_to_rgb(_pixels(message), message.encoding)


def _depth_raw(message: Any) -> UInt16Array:
    return to_depth_mm(_pixels(message), message.encoding)


def _complete(data: bytes, form: str) -> bytes:
    """Return the file, refusing one that is cut: OpenCV would fill the missing rows with grey."""
    ends = {_PNG: _PNG_END, _JPEG: _JPEG_END}
    for begin, end in ends.items():
        if data.startswith(begin) and end not in data[-64:]:
            raise ImageFormatError("length", f"expected a complete image of format '{form}', found one cut short")
    return data


def _decode_file(data: bytes, flags: int, form: str) -> npt.NDArray[Any]:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ImageFormatError("undecodable", f"expected an image of format '{form}', found bytes that do not decode")
    return pixels
