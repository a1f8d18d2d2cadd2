"""Decode image messages, serialised or compressed, to RGB and depth in millimetres."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.limits import over
from deal_core.recording.depth_values import DepthSample, DepthValues
from deal_core.recording.image_encodings import (
    COLOR_ENCODINGS,
    DEPTH_ENCODINGS,
    RARE_ENCODINGS,
    ImageFormatError,
    RawImage,
    any_to_rgb,
    decode_image,
)
from deal_core.recording.image_payload import ImageFile, identify_image, image_end, why_not_decode
from deal_core.recording.rvl import decode_rvl
from deal_core.recording.transforms import pose_of
from deal_core.recording.writer import message_types
from deal_core.structures import CameraIntrinsics, Float64Array, UInt8Array, UInt16Array

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
STRING = "std_msgs/msg/String"
TRANSFORMS = "tf2_msgs/msg/TFMessage"
ODOMETRY = "nav_msgs/msg/Odometry"

_PNG = b"\x89PNG\r\n\x1a\n"
_SETTINGS = struct.Struct("<iff")
"""What stands before the image of a compressedDepth message: format, and the two numbers of the quantisation."""
_RVL_SIZE = struct.Struct("<II")
_MAX_SIDE = 16384


@dataclass(frozen=True, eq=False)
class ColorMessage:
    """A colour image: rgb (H, W, 3) uint8."""

    stamp_ns: int
    frame_id: str
    rgb: UInt8Array

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.rgb.shape[0], self.rgb.shape[1]


@dataclass(frozen=True, eq=False)
class DepthMessage:
    """A depth image: depth_mm (H, W) uint16, 0 = no measurement, and a sample of its depths before any limit."""

    stamp_ns: int
    frame_id: str
    depth_mm: UInt16Array
    sample: DepthSample

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.depth_mm.shape[0], self.depth_mm.shape[1]


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """A compressed image of a camera, which is decoded when it is needed.

    Args:
        stamp_ns: time of acquisition, nanoseconds.
        frame_id: optical frame.
        encoding: format of the message.
        data: its bytes; they are not copied, so they must not change.
        is_depth: whether it is depth.
    """

    stamp_ns: int
    frame_id: str
    encoding: str
    data: memoryview
    is_depth: bool

    def raw(self) -> RawImage:
        """Return the decoded image: `rgb8`, `16UC1` or `32FC1`.

        Raises:
            ImageFormatError: the image is not what it should be, or is truncated or damaged.
        """
        if self.is_depth:
            pixels, encoding = decompress_depth(self.encoding, self.data)
        else:
            pixels, encoding = compressed_to_rgb(self.encoding, self.data), "rgb8"
        return RawImage.of(pixels, self.stamp_ns, self.frame_id, encoding)


CameraImage = RawImage | EncodedImage
"""An image on its way from a camera to a recording."""


class FramePose(NamedTuple):
    """The pose of a frame in its parent.

    Attributes:
        parent, child: names of the frames.
        stamp_ns: time at which it holds, nanoseconds.
        pose: (4, 4) matrix that takes points from the child's frame to the parent's.
    """

    parent: str
    child: str
    stamp_ns: int
    pose: Float64Array


class ImageHead(NamedTuple):
    """What an image message says before its pixels.

    Attributes:
        stamp_ns: stamp of the header, nanoseconds.
        frame_id: frame of the header.
        encoding: encoding, or format of a compressed image.
        size: (H, W); (0, 0) if only decoding a compressed image tells it.
        step: bytes from one row to the next; 0 for a compressed image.
        is_bigendian: byte order of numbers wider than a byte.
        begin, end: place of the pixels or of the compressed image in the serialised message.
    """

    stamp_ns: int
    frame_id: str
    encoding: str
    size: tuple[int, int]
    step: int
    is_bigendian: bool
    begin: int
    end: int


def header_stamp(data: bytes | memoryview) -> int:
    """Return the stamp of a serialised message that begins with a header, without decoding the message.

    Raises:
        ImageFormatError: the message is too short, or is not CDR.
    """
    if len(data) < 12 or data[0] != 0 or data[1] > 1:
        raise ImageFormatError("serialization", f"expected a CDR message with a header, found {bytes(data[:12])!r}")
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] else ">iI", data, 4)
    return int(seconds) * 10**9 + int(nanoseconds)


def image_head(data: bytes | memoryview, kind: str, *, length: int | None = None) -> ImageHead:
    """Return what an `Image` or `CompressedImage` says before its pixels, without decoding them.

    Args:
        data: serialised message, or its first bytes.
        kind: type of the message.
        length: length of the whole message, if `data` is only its beginning.

    Raises:
        ImageFormatError: the message is too short, or is not CDR.
    """
    stamp_ns = header_stamp(data)
    reader = _CdrReader(data, "<" if data[1] else ">", 12)
    try:
        frame_id = reader.text()
        if kind == COMPRESSED:
            encoding, step, is_bigendian = reader.text(), 0, False
            size = (0, 0)
        else:
            size = reader.number(), reader.number()
            encoding, is_bigendian, step = reader.text(), bool(reader.byte()), reader.number()
        count = reader.number()
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise _damaged(kind, error) from error
    if reader.at + count > (len(data) if length is None else length):
        raise _damaged(kind, f"{count} bytes of pixels, of which {len(data) - reader.at} are there")
    return ImageHead(stamp_ns, frame_id, encoding, size, step, is_bigendian, reader.at, reader.at + count)


def image_size(head: ImageHead, data: bytes | memoryview, kind: str) -> tuple[int, int]:
    """Return (H, W) of an image message without decoding it; (0, 0) if its beginning does not say it.

    Args:
        head: its head.
        data: serialised message, or its beginning.
        kind: type of the message.
    """
    if kind != COMPRESSED:
        return head.size
    content = memoryview(data)[head.begin : head.end]
    found, _ = _find_image(content)
    return (found.height, found.width) if found else _rvl_size(content) or (0, 0)


class _CdrReader:
    """Read the fields of a serialised message one after the other."""

    def __init__(self, data: bytes | memoryview, order: str, at: int) -> None:
        self._data, self._number, self.at = data, struct.Struct(f"{order}I"), at

    def number(self) -> int:
        self.at += -self.at % 4
        (value,) = self._number.unpack_from(self._data, self.at)
        self.at += 4
        return int(value)

    def byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def text(self) -> str:
        length = self.number()
        begin, self.at = self.at, self.at + length
        if self.at > len(self._data):
            raise IndexError("a text is longer than the message")
        return bytes(self._data[begin : max(self.at - 1, begin)]).decode()


class MessageDecoder:
    """Decode standard messages, which are the same in all distributions since Foxy.

    Args:
        depth: how to read the numbers of depth images.

    Raises:
        ImageFormatError: from any method, if the message is damaged or its encoding does not fit the method.
    """

    def __init__(self, depth: DepthValues | None = None) -> None:
        self._types = message_types()
        self._depth = depth or DepthValues()

    def color(self, data: bytes | memoryview, kind: str) -> ColorMessage:
        """Decode a colour `Image` or `CompressedImage`."""
        head = image_head(data, kind)
        content = memoryview(data)[head.begin : head.end]
        if kind == COMPRESSED:
            return ColorMessage(head.stamp_ns, head.frame_id, compressed_to_rgb(head.encoding, content))
        return ColorMessage(head.stamp_ns, head.frame_id, any_to_rgb(_pixels(head, content), head.encoding))

    def depth(self, data: bytes | memoryview, kind: str) -> DepthMessage:
        """Decode a depth `Image` or `CompressedImage`; 16-bit millimetres stay exact."""
        head = image_head(data, kind)
        content = memoryview(data)[head.begin : head.end]
        if kind == COMPRESSED:
            pixels, encoding = decompress_depth(head.encoding, content)
        else:
            pixels, encoding = _pixels(head, content), head.encoding
        depth_mm = self._depth.to_mm(pixels, encoding)
        return DepthMessage(head.stamp_ns, head.frame_id, depth_mm, self._depth.sample(pixels, encoding))

    def encoding(self, data: bytes | memoryview, kind: str) -> str:
        """Return the encoding or format of an image message, as in `rgb8` or `16UC1; compressedDepth png`."""
        return image_head(data, kind).encoding

    def text(self, data: bytes | memoryview) -> str:
        """Return the text of a `String` message."""
        return str(self._decode(data, STRING).data)

    def camera(self, data: bytes | memoryview, *, is_rectified: bool = False) -> CameraIntrinsics | None:
        """Return the intrinsics of a `CameraInfo` message; see `camera_of`."""
        return camera_of(self._decode(data, CAMERA_INFO), is_rectified=is_rectified)

    def transforms(self, data: bytes | memoryview) -> list[FramePose]:
        """Return the transforms of a `TFMessage`; those that are no pose are left out."""
        found = []
        for each in self._decode(data, TRANSFORMS).transforms:
            pose = pose_of(each.transform.translation, each.transform.rotation)
            if pose is not None:
                found.append(_frame_pose(each, pose))
        return found

    def odometry(self, data: bytes | memoryview) -> FramePose:
        """Return the pose of an `Odometry` message; one that is no pose counts as damaged."""
        message = self._decode(data, ODOMETRY)
        pose = pose_of(message.pose.pose.position, message.pose.pose.orientation)
        if pose is None:
            raise _damaged(ODOMETRY, "its orientation or position is no pose")
        return _frame_pose(message, pose)

    def _decode(self, data: bytes | memoryview, kind: str) -> Any:
        try:
            return self._types.deserialize_cdr(bytes(data), kind)
        except Exception as error:  # rosbags raises errors of several kinds on damaged bytes
            raise _damaged(kind, error) from error


def _frame_pose(message: Any, pose: Float64Array) -> FramePose:
    stamp = message.header.stamp
    stamp_ns = int(stamp.sec) * 10**9 + int(stamp.nanosec)
    return FramePose(str(message.header.frame_id), str(message.child_frame_id), stamp_ns, pose)


def camera_of(info: Any, *, is_rectified: bool = False) -> CameraIntrinsics | None:
    """Return the intrinsics of a `CameraInfo`; None if the camera is not calibrated.

    A `CameraInfo` describes two images: K and D the one that the camera took, P the rectified one, which has no
    distortion. The other matrix serves if the wanted one is empty.

    Args:
        info: message of either rosbags or rclpy.
        is_rectified: whether the images are rectified; see `is_rectified_topic`.
    """
    fx, _, cx, _, fy, cy, *_ = (float(value) for value in info.k)
    taken = (fx, fy, cx, cy)
    fx, _, cx, _, _, fy, cy, *_ = (float(value) for value in info.p)
    rectified = (fx, fy, cx, cy)
    order = (rectified, taken) if is_rectified else (taken, rectified)
    matrix = next((m for m in order if np.isfinite(m).all() and m[0] > 0 and m[1] > 0), None)
    if matrix is None:
        return None
    distortion = () if is_rectified or matrix is not taken else tuple(float(value) for value in info.d)
    fx, fy, cx, cy = matrix
    return CameraIntrinsics(
        width=int(info.width),
        height=int(info.height),
        fx=fx,
        fy=fy,
        cx=cx,
        cy=cy,
        distortion=distortion or (0.0,) * 5,
        distortion_model=str(info.distortion_model) if distortion else "plumb_bob",
        frame_id=str(info.header.frame_id),
    )


def is_rectified_topic(topic: str) -> bool:
    """Return whether an image topic has rectified images by its name, as `image_rect` and `image_rect_color` have."""
    return "image_rect" in topic.rsplit("/compressed", 1)[0].rsplit("/", 1)[-1]


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


def content_of(data: bytes | memoryview, kind: str) -> Literal["color", "depth", ""]:
    """Return whether an image message contains colour or exact depth; empty if neither.

    The bytes of a compressed image decide, and its format only where they allow both.

    Raises:
        ImageFormatError: the message is damaged.
    """
    head = image_head(data, kind)
    form = head.encoding
    if kind != COMPRESSED:
        return "color" if is_color_encoding(kind, form) else "depth" if is_depth_encoding(kind, form) else ""
    content = memoryview(data)[head.begin : head.end]
    found, _ = _find_image(content)
    if found is None:
        return "depth" if _rvl_size(content) else ""
    if found.is_depth:
        return "depth"
    return "color" if is_color_encoding(COMPRESSED, form) else ""


def compressed_to_rgb(form: str, data: bytes | memoryview) -> UInt8Array:
    """Return (H, W, 3) uint8 RGB of the image file in a colour `CompressedImage`.

    Args:
        form: format of the message; its bytes decide what it is.
        data: JPEG, PNG, WebP, TIFF or another file that OpenCV reads; bytes behind its end are left out.

    Raises:
        ImageFormatError: the image is not colour, or is truncated or damaged.
    """
    found = identify_image(data)
    if not is_color_encoding(COMPRESSED, form) or (found is not None and found.is_depth):
        raise ImageFormatError("unknown_encoding", f"expected a compressed colour image, found format '{form}'")
    pixels = _decode_file(_complete(data, form), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, form)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def decompress_depth(form: str, data: bytes | memoryview) -> tuple[npt.NDArray[Any], str]:
    """Return the pixels (H, W) of a depth `CompressedImage` and their encoding, "16UC1" or "32FC1".

    The `compressed` topic has a PNG or TIFF file. compressedDepth has 12 bytes of settings, and then a PNG file or an
    RVL stream; the settings are (format, a, b). 32FC1 depth is 16-bit inverse depth: metres = a / (value - b).

    Args:
        form: format of the message; it tells 32FC1 from 16UC1, which the stored bytes do not.
        data: the bytes of the message.

    Raises:
        ImageFormatError: the image is not exact depth, or is truncated or damaged.
    """
    encoding = form.split(";")[0].strip()
    found, start = _find_image(data)
    if found is not None:
        stored = _decode_file(_complete(data[start:], form), cv2.IMREAD_UNCHANGED, form)
        if stored.ndim == 2 and stored.dtype == np.float32:
            return stored, "32FC1"
        if stored.dtype != np.uint16 or stored.ndim != 2:
            raise ImageFormatError(
                "unknown_encoding",
                f"expected 16-bit depth in the message of format '{form}', found a {found.kind.upper()} of "
                f"{stored.dtype} {stored.shape}; record with the parameter compressedDepth.format:=png",
            )
    elif size := _rvl_size(data):
        start = _SETTINGS.size
        if problem := over("rvl_pixels", size[0] * size[1], "pixels of RVL"):
            raise ImageFormatError("undecodable", f"expected depth in the message of format '{form}': {problem}")
        try:
            stored = decode_rvl(data[start + _RVL_SIZE.size :], size[0] * size[1]).reshape(size)
        except ValueError as error:
            raise ImageFormatError(
                "undecodable", f"expected depth in RVL in the message of format '{form}', found damage: {error}"
            ) from error
    else:
        raise ImageFormatError(
            "unknown_encoding",
            f"expected a PNG, a TIFF or RVL in the depth message of format '{form}', found none; "
            "record with the parameter compressedDepth.format:=png",
        )
    if encoding != "32FC1":
        return stored, "16UC1"
    if start < _SETTINGS.size:
        raise ImageFormatError("length", f"expected 12 bytes of settings before the PNG of '{form}', found {start}")
    _, a, b = _SETTINGS.unpack_from(data, start - _SETTINGS.size)
    with np.errstate(divide="ignore", invalid="ignore"):
        metres = np.where(stored > 0, np.float32(a) / (stored.astype(np.float32) - np.float32(b)), np.float32(np.nan))
    return metres.astype(np.float32), "32FC1"


def _find_image(data: bytes | memoryview) -> tuple[ImageFile | None, int]:
    """Return the image file in a compressed message and its place: at the start, or behind the settings of depth."""
    start = max(bytes(data[:64]).find(_PNG), 0)
    return identify_image(data[start:]), start


def _rvl_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """Return (H, W) of an RVL stream, which begins with its size behind the settings; None if that is impossible."""
    if len(data) < _SETTINGS.size + _RVL_SIZE.size:
        return None
    width, height = _RVL_SIZE.unpack_from(data, _SETTINGS.size)
    if 0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE:
        return height, width
    return None


def _pixels(head: ImageHead, content: memoryview) -> npt.NDArray[Any]:
    return decode_image(*head.size, head.encoding, head.is_bigendian, head.step, content)


def _complete(data: bytes | memoryview, form: str) -> bytes | memoryview:
    """Return the file without what follows it; raise an error if it is truncated."""
    found = identify_image(data)
    if found is None or not found.bits:
        return data  # OpenCV reads more formats, and says whether a damaged file is one of them
    end = image_end(data)
    if end is None:
        raise ImageFormatError("length", f"expected a complete image of format '{form}', found a truncated one")
    return data[:end]


def _decode_file(data: bytes | memoryview, flags: int, form: str) -> npt.NDArray[Any]:
    if problem := why_not_decode(data):
        raise ImageFormatError("undecodable", f"expected an image of format '{form}', which is not decoded: {problem}")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if len(data) else None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ImageFormatError("undecodable", f"expected an image of format '{form}', found bytes that do not decode")
    return pixels


def _damaged(kind: str, why: object) -> ImageFormatError:
    return ImageFormatError("serialization", f"expected a {kind}, found damaged bytes ({why})")
