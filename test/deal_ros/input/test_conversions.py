"""Messages to arrays and back."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from sensor_msgs.msg import CompressedImage, Image, PointField, RegionOfInterest
from std_msgs.msg import Header

from deal_core.recording.image_encodings import ImageFormatError
from deal_core.runtime.camera_rays import CameraModelError
from deal_core.runtime.labelled_points import POINT
from deal_core.structures import CameraIntrinsics
from deal_ros.input.conversions import (
    array_to_image,
    camera_to_info,
    color_to_rgb,
    image_to_depth_m,
    image_to_depth_mm,
    image_to_mask,
    info_to_camera,
    points_to_cloud,
    rgb_to_jpeg,
    scaled_info,
    stamp_from_ns,
    stamp_to_ns,
)

HEADER = Header(stamp=stamp_from_ns(1_700_000_000_123_456_789), frame_id="optical")


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_keep_every_nanosecond(stamp_ns: int) -> None:
    stamp = stamp_from_ns(stamp_ns)
    assert 0 <= stamp.nanosec < 10**9
    assert stamp_to_ns(stamp) == stamp_ns


@pytest.mark.parametrize(
    ("shape", "dtype", "encoding"),
    [
        ((3, 5), np.uint8, "mono8"),
        ((3, 5, 3), np.uint8, "rgb8"),
        ((3, 5), np.uint16, "16UC1"),
        ((3, 5), np.float32, "32FC1"),
    ],
)
def test_a_message_holds_the_bytes_of_the_array(shape: tuple[int, ...], dtype: type, encoding: str) -> None:
    array = np.random.default_rng(0).integers(0, 250, shape).astype(dtype)
    for source in (array, np.asfortranarray(array), np.pad(array, [(1, 1)] * array.ndim)[(slice(1, -1),) * array.ndim]):
        message = array_to_image(source, HEADER)
        assert (message.height, message.width, message.encoding) == (3, 5, encoding)
        assert message.step * 3 == len(message.data) == array.nbytes and message.is_bigendian == 0
        assert bytes(message.data) == array.tobytes()
        assert message.header == HEADER


@pytest.mark.parametrize("array", [np.zeros((2, 2), np.int32), np.zeros((2, 2, 4), np.uint8), np.zeros(4, np.uint8)])
def test_arrays_that_are_no_image_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no image encoding"):
        array_to_image(array, HEADER)


def test_reading_is_without_a_copy() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    color, depth = array_to_image(rgb, HEADER), array_to_image(rgb[..., 0].astype(np.uint16), HEADER)
    assert np.shares_memory(color_to_rgb(color), np.frombuffer(color.data, np.uint8))
    assert np.shares_memory(image_to_depth_mm(depth), np.frombuffer(depth.data, np.uint8))
    np.testing.assert_array_equal(color_to_rgb(color), rgb)


def test_step_and_byte_order_of_the_message_are_honoured() -> None:
    values = [[0, 1, 1500], [65535, 258, 3]]
    rows = [struct.pack(">3H", *row) + b"\xff\xff\xff\xff" for row in values]
    message = Image(header=HEADER, height=2, width=3, encoding="16UC1", is_bigendian=1, step=10)
    message.data.frombytes(b"".join(rows))
    np.testing.assert_array_equal(image_to_depth_mm(message), values)
    metres, valid = image_to_depth_m(message)
    np.testing.assert_allclose(metres, np.array(values) / 1000, rtol=1e-6)
    np.testing.assert_array_equal(valid, np.array(values) > 0)


@pytest.mark.parametrize("convert", [color_to_rgb, image_to_depth_m, image_to_depth_mm])
@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"step": 17}, "step"),
        ({"step": 0}, "step"),
        ({"step": 20}, "length"),
        ({"height": 5}, "length"),
        ({"data": b""}, "length"),
        ({"width": 0}, "zero_size"),
        ({"height": 0, "data": b""}, "zero_size"),
        ({"height": 2**32 - 1, "width": 2**32 - 1, "step": 2**32 - 1}, "step"),
        ({"encoding": ""}, "unknown_encoding"),
        ({"encoding": "16SC1"}, "unknown_encoding"),
        ({"encoding": "RGB8"}, "unknown_encoding"),
        ({"encoding": "yuyv", "width": 3}, "odd_size"),
    ],
)
def test_messages_that_contradict_themselves_are_refused_with_a_cause(
    convert: Callable[[Any], Any], changed: dict[str, Any], cause: str
) -> None:
    message = array_to_image(np.zeros((4, 6, 3), np.uint8), HEADER)
    if convert is not color_to_rgb:
        message = array_to_image(np.zeros((4, 9), np.uint16), HEADER)
    for name, value in changed.items():
        setattr(message, name, value)
    with pytest.raises(ImageFormatError) as caught:
        convert(message)
    assert caught.value.cause == cause


def test_colour_is_no_depth_and_depth_no_colour() -> None:
    color, depth = (
        array_to_image(np.zeros((2, 2, 3), np.uint8), HEADER),
        array_to_image(np.zeros((2, 2), np.uint16), HEADER),
    )
    for convert, message in ((image_to_depth_m, color), (image_to_depth_mm, color), (color_to_rgb, depth)):
        with pytest.raises(ImageFormatError, match=f"found '{message.encoding}'") as caught:
            convert(message)
        assert caught.value.cause == "unknown_encoding"


def test_rare_encodings_become_rgb() -> None:
    message = Image(header=HEADER, height=2, width=4, encoding="yuv422_yuy2", step=10)
    message.data.frombytes(bytes([90, 128] * 4 + [0, 0]) * 2)
    np.testing.assert_allclose(color_to_rgb(message), np.full((2, 4, 3), 1.164 * (90 - 16)), atol=1)
    assert message.step == 10 and len(message.data) == 20


def compressed(form: str, data: bytes) -> CompressedImage:
    message = CompressedImage(header=HEADER, format=form)
    message.data.frombytes(data)
    return message


def test_compressed_images_are_decoded() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    depth = np.random.default_rng(1).integers(0, 9000, (4, 6), np.uint16)
    png = cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(color_to_rgb(compressed("rgb8; png compressed bgr8", png)), rgb)
    flat = np.full((16, 16, 3), (200, 100, 30), np.uint8)
    jpeg = cv2.imencode(".jpg", flat[..., ::-1])[1].tobytes()
    np.testing.assert_allclose(color_to_rgb(compressed("jpeg", jpeg)), flat, atol=5)
    message = compressed("16UC1; compressedDepth png", bytes(12) + cv2.imencode(".png", depth)[1].tobytes())
    np.testing.assert_array_equal(image_to_depth_mm(message), depth)
    metres, valid = image_to_depth_m(message)
    np.testing.assert_allclose(metres, depth / 1000, rtol=1e-6)
    np.testing.assert_array_equal(valid, depth > 0)


@pytest.mark.parametrize(
    ("form", "cut", "cause"),
    [
        ("jpeg", -9, "length"),
        ("jpeg", 3, "length"),
        ("jpeg", 0, "undecodable"),
        ("16UC1; compressedDepth", 99, "unknown_encoding"),
    ],
)
def test_damaged_jpeg_is_refused_with_a_cause(form: str, cut: int, cause: str) -> None:
    jpeg = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    with pytest.raises(ImageFormatError) as caught:
        color_to_rgb(compressed(form, jpeg[:cut]))
    assert caught.value.cause == cause


def test_a_mask_is_mono8() -> None:
    mask = np.array([[0, 255], [3, 1]], np.uint8)
    np.testing.assert_array_equal(image_to_mask(array_to_image(mask, HEADER)), mask)
    with pytest.raises(ValueError, match="found 'rgb8'"):
        image_to_mask(array_to_image(np.zeros((2, 2, 3), np.uint8), HEADER))


def test_camera_info_projects_like_the_camera() -> None:
    camera = CameraIntrinsics(640, 480, 600.0, 610.0, 320.5, 241.5, (0.1, -0.2, 0.0, 0.0, 0.05))
    info = camera_to_info(camera, HEADER)
    k, p = np.array(info.k).reshape(3, 3), np.array(info.p).reshape(3, 4)
    u, v, w = k @ [0.2, -0.1, 2.0]
    assert (u / w, v / w) == pytest.approx((600 * 0.1 + 320.5, 610 * -0.05 + 241.5))
    np.testing.assert_array_equal(p[:, :3], k)
    assert (info.width, info.height, list(info.d)) == (640, 480, list(camera.distortion))


def test_camera_info_and_back_is_the_camera() -> None:
    camera = CameraIntrinsics(640, 480, 600.0, 610.0, 320.5, 241.5, (0.1, -0.2, 0.0, 0.0, 0.05), frame_id="optical")
    assert info_to_camera(camera_to_info(camera, HEADER), 640, 480) == camera


def test_a_rectified_image_has_the_intrinsics_of_p_without_distortion() -> None:
    camera = CameraIntrinsics(640, 480, 600.0, 610.0, 320.5, 241.5, (0.1, -0.2, 0.0, 0.0, 0.05), frame_id="optical")
    info = camera_to_info(camera, HEADER)
    info.p = [500.0, 0.0, 310.0, 0.0, 0.0, 505.0, 230.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert info_to_camera(info, 640, 480) == camera
    rectified = CameraIntrinsics(640, 480, 500.0, 505.0, 310.0, 230.0, frame_id="optical")
    assert info_to_camera(info, 640, 480, is_rectified=True) == rectified


def test_a_camera_of_another_image_is_refused() -> None:
    info = camera_to_info(CameraIntrinsics(640, 480, 600.0, 610.0, 320.5, 241.5), HEADER)
    with pytest.raises(CameraModelError, match=r"colour image \(1280x720\), found 640x480"):
        info_to_camera(info, 1280, 720)
    info.k, info.p = [0.0] * 9, [0.0] * 12
    with pytest.raises(CameraModelError, match="expected a calibrated camera, found k = "):
        info_to_camera(info, 640, 480)


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.3])
def test_a_camera_is_scaled_with_its_image(scale: float) -> None:
    """A direction is seen at the pixel of before, times the scale; lens and rotation stay."""
    camera = CameraIntrinsics(640, 480, 600.0, 610.0, 320.5, 241.5, (0.1, -0.2, 0.0, 0.0, 0.05))
    info = camera_to_info(camera, Header())
    info.p[3], info.binning_x = -30.0, 2
    info.roi = RegionOfInterest(x_offset=100, y_offset=50, width=200, height=100, do_rectify=True)
    found = scaled_info(info, HEADER, scale)
    assert found.header == HEADER and (found.width, found.height) == (640 * scale, 480 * scale)
    for before, after in ((info.k, found.k), (info.p, found.p)):
        matrix, small = (np.reshape(values, (3, -1)) for values in (before, after))
        point = np.array([0.2, -0.1, 2.0, 1.0])[: matrix.shape[1]]
        full, seen = matrix @ point, small @ point
        np.testing.assert_allclose(seen[:2] / seen[2], scale * full[:2] / full[2])
    assert list(found.d) == list(info.d) and list(found.r) == list(info.r) and found.binning_x == 2
    assert (found.roi.x_offset, found.roi.width, found.roi.do_rectify) == (100 * scale, 200 * scale, True)
    if scale == 1.0:
        found.header = info.header
        assert found == info


def test_ids_of_objects_are_signed() -> None:
    ids = np.array([[0, 129], [32639, 1]], np.int16)
    message = array_to_image(ids, HEADER)
    assert (message.encoding, message.step) == ("16SC1", 4)
    np.testing.assert_array_equal(np.frombuffer(message.data, "<i2").reshape(2, 2), ids)


def test_an_organised_cloud_has_rows_and_may_have_holes() -> None:
    points = np.zeros((3, 5), POINT)
    points["z"], points["label"] = np.nan, np.arange(15).reshape(3, 5)
    for source in (points, points.repeat(2, axis=1)[:, ::2]):
        cloud = points_to_cloud(source, HEADER)
        assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step) == (3, 5, 24, 24 * 5)
        assert not cloud.is_dense
        np.testing.assert_array_equal(np.frombuffer(cloud.data, POINT)["label"], np.arange(15))


def test_jpeg_holds_the_picture() -> None:
    rgb = np.zeros((24, 32, 3), np.uint8)
    rgb[:, :16], rgb[:, 16:] = (200, 30, 60), (10, 120, 240)
    message = rgb_to_jpeg(rgb, HEADER, quality=95)
    assert (message.header, message.format) == (HEADER, "rgb8; jpeg compressed bgr8")
    shown = cv2.cvtColor(cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.abs(shown.astype(int) - rgb).mean() < 5
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert len(rgb_to_jpeg(noise, HEADER, 10).data) < 0.5 * len(rgb_to_jpeg(noise, HEADER, 90).data)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_cloud_holds_every_field_of_every_point(count: int) -> None:
    points = np.zeros(count, POINT)
    for name in POINT.names:
        points[name] = np.arange(count) + 0.5
    for source in (points, np.repeat(points, 2)[::2]):
        cloud = points_to_cloud(source, HEADER)
        assert cloud.header == HEADER and cloud.is_dense and not cloud.is_bigendian
        assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step) == (1, count, 24, 24 * count)
        assert [(f.name, f.offset, f.datatype, f.count) for f in cloud.fields] == [
            ("x", 0, PointField.FLOAT32, 1),
            ("y", 4, PointField.FLOAT32, 1),
            ("z", 8, PointField.FLOAT32, 1),
            ("rgb", 12, PointField.FLOAT32, 1),
            ("label", 16, PointField.UINT16, 1),
            ("conf", 20, PointField.FLOAT32, 1),
        ]
        received = np.frombuffer(cloud.data, POINT)
        for name in POINT.names:
            np.testing.assert_array_equal(received[name], points[name])
