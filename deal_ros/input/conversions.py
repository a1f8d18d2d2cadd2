"""Convert ROS messages to arrays and back; `deal_core.recording.image_encodings` decodes the pixels."""

from __future__ import annotations

from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField, RegionOfInterest
from std_msgs.msg import Header

from deal_core.recording.depth_values import DepthReading, DepthValues
from deal_core.recording.image_encodings import RawImage, any_to_rgb, decode_image
from deal_core.recording.image_messages import EncodedImage, camera_of, compressed_to_rgb, decompress_depth
from deal_core.runtime.camera_rays import CameraModelError
from deal_core.runtime.sampling import sample_count
from deal_core.structures import (
    BoolArray,
    CameraIntrinsics,
    Float32Array,
    UInt8Array,
    UInt16Array,
)
from deal_ros.input.cv_bridge_converter import rare_converters

ImageMessage: TypeAlias = Image | CompressedImage
"""Message of an image topic; the transport (raw or compressed) determines the type."""

CPU = "cpu"
"""Name of main memory among the buffer backends of ROS 2."""

_NS_PER_S = 1_000_000_000
_ENCODINGS = {
    ("uint8", 2): "mono8",
    ("uint8", 3): "rgb8",
    ("uint16", 2): "16UC1",
    ("int16", 2): "16SC1",
    ("float32", 2): "32FC1",
}
_POINT_TYPES = {"float32": PointField.FLOAT32, "uint16": PointField.UINT16}


def stamp_to_ns(stamp: Time) -> int:
    """Convert a message stamp to nanoseconds."""
    return int(stamp.sec) * _NS_PER_S + int(stamp.nanosec)


def stamp_from_ns(stamp_ns: int) -> Time:
    """Convert nanoseconds to a message stamp."""
    return Time(sec=stamp_ns // _NS_PER_S, nanosec=stamp_ns % _NS_PER_S)


def memory_of(message: ImageMessage) -> str:
    """Return the memory of a message's data: `CPU`, or another buffer backend of Lyrical and later, such as "cuda"."""
    return str(getattr(message.data, "backend_type", CPU))


def color_to_rgb(message: ImageMessage) -> UInt8Array:
    """Convert a colour image to (H, W, 3) uint8 RGB; for `rgb8` the result is a view of the message.

    Raises:
        ImageFormatError: the encoding is not a colour encoding, the fields contradict each other, or the data cannot
            be decoded.
    """
    if isinstance(message, CompressedImage):
        return compressed_to_rgb(message.format, _bytes_of(message))
    return any_to_rgb(_pixels(message), message.encoding, rare_converters())


def read_depth(message: ImageMessage, values: DepthValues) -> DepthReading:
    """Decode a depth image; its numbers are a view of a raw message, and are converted when they are needed.

    Args:
        message: raw image, or a PNG, TIFF or RVL of the compressed transports.
        values: how to read the numbers of the image.

    Raises:
        ImageFormatError: the encoding is not a depth encoding, the fields contradict each other, or the data cannot
            be decoded.
    """
    return DepthReading(*_depth_pixels(message), values)


def image_to_depth_m(message: ImageMessage, values: DepthValues | None = None) -> tuple[Float32Array, BoolArray]:
    """Convert a depth image to (H, W) float32 metres (0 where invalid) and an (H, W) bool mask of valid pixels.

    Raises:
        ImageFormatError: as of `read_depth`.
    """
    return (values or DepthValues()).to_m(*_depth_pixels(message))


def image_to_depth_mm(message: ImageMessage, values: DepthValues | None = None) -> UInt16Array:
    """Convert a depth image to (H, W) uint16 millimetres, 0 where invalid; for `16UC1` a view of the message.

    Raises:
        ImageFormatError: as of `read_depth`.
    """
    return (values or DepthValues()).to_mm(*_depth_pixels(message))


def image_to_mask(message: Image) -> UInt8Array:
    """Return the (H, W) uint8 class ids of a `mono8` mask as a view of the message.

    Raises:
        ImageFormatError: the fields contradict each other.
        ValueError: the encoding is not `mono8`.
    """
    if message.encoding != "mono8":
        raise ValueError(f"expected a mask with encoding mono8, found '{message.encoding}'")
    return _pixels(message)


def image_to_raw(message: ImageMessage, *, is_depth: bool = False) -> RawImage | EncodedImage:
    """Return the fields of a message; the pixels are an unchecked view of it.

    Args:
        message: raw or compressed image.
        is_depth: whether a compressed image is depth.
    """
    if isinstance(message, CompressedImage):
        stamp_ns, frame_id = stamp_to_ns(message.header.stamp), message.header.frame_id
        return EncodedImage(stamp_ns, frame_id, message.format, _bytes_of(message), is_depth)
    return RawImage(
        stamp_ns=stamp_to_ns(message.header.stamp),
        frame_id=message.header.frame_id,
        height=message.height,
        width=message.width,
        encoding=message.encoding,
        step=message.step,
        data=_bytes_of(message),
        is_bigendian=bool(message.is_bigendian),
    )


def array_to_image(array: npt.NDArray[Any], header: Header, encoding: str | None = None) -> Image:
    """Convert an array to an image message.

    By default (H, W) uint8 becomes mono8, (H, W, 3) uint8 rgb8, (H, W) uint16 16UC1, int16 16SC1, and float32 32FC1.

    Args:
        array: the pixels.
        header: header of the message.
        encoding: encoding of the pixels, not checked; None for the default of the array's shape and type.

    Raises:
        ValueError: there is no default encoding for the array.
    """
    encoding = encoding or _usual_encoding(array)
    contiguous = np.ascontiguousarray(array)
    message = Image(header=header, encoding=encoding, is_bigendian=0)
    message.height, message.width = array.shape[:2]
    message.step = contiguous.nbytes // array.shape[0]
    # Filling the message's own array is the only fast way in every distribution: an assignment to `data` checks each
    # element if field checks are on, and bytes or lists are 10 to 4000 times slower.
    message.data.frombytes(contiguous.data.cast("B"))
    return message


def camera_to_info(camera: CameraIntrinsics, header: Header) -> CameraInfo:
    """Convert the intrinsics of an unrectified pinhole camera to a CameraInfo message."""
    fx, fy, cx, cy = camera.fx, camera.fy, camera.cx, camera.cy
    return CameraInfo(
        header=header,
        height=camera.height,
        width=camera.width,
        distortion_model=camera.distortion_model,
        d=list(camera.distortion),
        k=[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def info_to_camera(info: CameraInfo, width: int, height: int, *, is_rectified: bool = False) -> CameraIntrinsics:
    """Convert a CameraInfo message to the intrinsics of an image of this size.

    Args:
        info: the message.
        width: columns of the image.
        height: rows of the image.
        is_rectified: whether the image is rectified; see `deal_core.recording.image_messages.is_rectified_topic`.

    Raises:
        CameraModelError: the message has no calibration, or its image size differs.
    """
    camera = camera_of(info, is_rectified=is_rectified)
    if camera is None:
        raise CameraModelError(f"expected a calibrated camera, found k = {[float(value) for value in info.k]}")
    if (camera.width, camera.height) != (width, height):
        raise CameraModelError(
            f"expected the camera of the colour image ({width}x{height}), found {camera.width}x{camera.height}"
        )
    return camera


def scaled_info(info: CameraInfo, header: Header, scale: float) -> CameraInfo:
    """Return the CameraInfo of an image that `deal_core.runtime.sampling` samples with a step of 1 / scale.

    Args:
        info: camera of the full image.
        header: header of the new message.
        scale: size of the image as a fraction of the full one, in (0, 1].
    """
    height, width = (sample_count(length, 1 / scale) for length in (info.height, info.width))
    k, p = ([float(value) for value in matrix] for matrix in (info.k, info.p))
    # The first two rows are in pixels: focal lengths, principal point, and in P focal length times baseline.
    k[:6], p[:8] = [value * scale for value in k[:6]], [value * scale for value in p[:8]]
    region = (info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height)
    x, y, roi_width, roi_height = (round(value * scale) for value in region)
    roi = RegionOfInterest(x_offset=x, y_offset=y, width=roi_width, height=roi_height, do_rectify=info.roi.do_rectify)
    return CameraInfo(
        header=header,
        height=height,
        width=width,
        distortion_model=info.distortion_model,
        d=info.d,
        k=k,
        r=info.r,
        p=p,
        binning_x=info.binning_x,
        binning_y=info.binning_y,
        roi=roi,
    )


def rgb_to_jpeg(rgb: UInt8Array, header: Header, quality: int) -> CompressedImage:
    """Convert (H, W, 3) uint8 RGB to a JPEG message as image_transport does; quality is 1 (smallest file) to 100."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    message = CompressedImage(header=header, format="rgb8; jpeg compressed bgr8")
    message.data.frombytes(data.data)
    return message


def points_to_cloud(points: npt.NDArray[Any], header: Header) -> PointCloud2:
    """Convert points of a structured dtype to a point cloud with one field for each dtype field.

    Args:
        points: (N,) for a cloud in one row, (H, W) for an organised one, which may have points of nan.
        header: header of the message.
    """
    layout = points.dtype
    height, width = (1, *points.shape)[-2:]
    places = {name: layout.fields[name][:2] for name in layout.names or ()} if layout.fields else {}
    message = PointCloud2(header=header, height=height, width=width, is_bigendian=False, is_dense=points.ndim == 1)
    message.fields = [
        PointField(name=name, offset=offset, datatype=_POINT_TYPES[kind.name], count=1)
        for name, (kind, offset) in places.items()
    ]
    message.point_step, message.row_step = layout.itemsize, width * layout.itemsize
    message.data.frombytes(np.ascontiguousarray(points).view(np.uint8))
    return message


def _usual_encoding(array: npt.NDArray[Any]) -> str:
    encoding = _ENCODINGS.get((array.dtype.name, array.ndim))
    if encoding is None or (array.ndim == 3 and array.shape[2] != 3):
        raise ValueError(f"no image encoding for {array.dtype} {array.shape}; expected one of {_ENCODINGS}")
    return encoding


def _depth_pixels(message: ImageMessage) -> tuple[npt.NDArray[Any], str]:
    if isinstance(message, CompressedImage):
        return decompress_depth(message.format, _bytes_of(message))
    return _pixels(message), message.encoding


def _pixels(message: Image) -> npt.NDArray[Any]:
    return decode_image(
        message.height, message.width, message.encoding, message.is_bigendian, message.step, _bytes_of(message)
    )


def _bytes_of(message: ImageMessage) -> memoryview:
    """Return the data of a message, as a view; a `rosidl_buffer.Buffer`, which may live on a GPU, is copied."""
    data: Any = message.data
    return memoryview(data.to_bytes() if hasattr(data, "backend_type") else data)
