"""What a frame becomes: its mask, what is said of its depth, and the causes of failure."""

from __future__ import annotations

import struct
from collections.abc import Callable

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from helpers.pipeline_rig import SIZE, Rig, color_of, depth_of
from helpers.rvl import encode
from sensor_msgs.msg import CompressedImage, Image

from deal_core.recording.depth_values import DepthReading
from deal_ros.input.conversions import array_to_image, image_to_mask, stamp_from_ns
from deal_ros.segmentation.parameters import SegmentationParameters


def test_a_pair_becomes_a_mask_with_the_colour_images_header(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig()
    color, depth = color_of(7), depth_of(7)
    rig.send(color, depth)
    rig.settle()
    (result,) = rig.results
    rgb = np.frombuffer(color.data, np.uint8).reshape(*SIZE, 3)
    millimetres = np.frombuffer(depth.data, np.uint16).reshape(SIZE)
    expected = np.where(millimetres == 0, 255, rgb[..., 0] > rgb[..., 1])
    np.testing.assert_array_equal(image_to_mask(result.mask), expected)
    assert result.mask.header == color.header
    assert result.valid_depth == pytest.approx((millimetres > 0).mean())
    np.testing.assert_allclose(rig.segmenter.depths[0], millimetres / 1000)


def test_depth_that_nobody_uses_is_counted_and_not_converted(
    new_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = new_rig()
    rig.segmenter.uses_depth = False
    converted: list[object] = []
    monkeypatch.setattr(DepthReading, "metres", lambda reading: converted.append(reading) or reading.pixels / 1000)
    depth = depth_of(7)
    rig.send(color_of(7), depth)
    rig.settle()
    (result,) = rig.results
    millimetres = np.frombuffer(depth.data, np.uint16).reshape(SIZE)
    assert result.valid_depth == pytest.approx((millimetres > 0).mean())
    assert rig.segmenter.depths == [None] and not converted
    for _ in range(2):
        np.testing.assert_allclose(result.inputs.depth, millimetres / 1000)
    assert len(converted) == 1


def compress(message: Image, form: str, head: bytes = b"") -> CompressedImage:
    pixels = np.frombuffer(message.data, np.uint8 if message.encoding == "rgb8" else np.uint16).reshape(*SIZE, -1)
    packed = CompressedImage(header=message.header, format=form)
    packed.data.frombytes(head + cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())
    return packed


def test_compressed_pairs_give_the_masks_of_raw_ones(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig()
    color, depth = color_of(7), depth_of(7)
    rig.send(color, depth)
    rig.settle()
    color.header.stamp = depth.header.stamp = stamp_from_ns(8)
    rig.send(compress(color, "png"), compress(depth, "16UC1; compressedDepth png", bytes(12)))
    rig.settle()
    raw, packed = (image_to_mask(result.mask) for result in rig.results)
    assert {0, 1, 255} == set(raw.flat)
    np.testing.assert_array_equal(packed, raw)


@pytest.mark.parametrize(
    ("depth", "cause"),
    [
        (depth_of(1, size=(4, 5)), "unaligned_depth"),
        (depth_of(1, frame_id="depth_optical"), "unaligned_depth"),
        (color_of(1), "unknown_encoding"),
    ],
)
def test_what_cannot_be_segmented_fails_with_a_cause(new_rig: Callable[..., Rig], depth: Image, cause: str) -> None:
    rig = new_rig()
    rig.send(color_of(1), depth)
    rig.settle()
    rig.send(color_of(2), depth_of(2))
    rig.settle()
    assert rig.pipeline.work.failed == {cause: 1} and len(rig.results) == 1
    assert f"frame 1: {cause}: expected" in rig.errors[0]
    assert rig.pipeline.statistics.summary.last_error == rig.errors[0]


@pytest.mark.parametrize("depth", [depth_of(1, size=(4, 5)), color_of(1)])
def test_optional_depth_that_cannot_be_used_is_left_out_and_told(new_rig: Callable[..., Rig], depth: Image) -> None:
    rig = new_rig("optional")
    rig.send(color_of(1), depth)
    rig.settle()
    assert rig.segmenter.depths == [None] and len(rig.results) == 1 and not rig.pipeline.work.failed
    summary = rig.pipeline.statistics.summary
    assert summary.troubles == 1 and "frame 1: depth ignored: un" in summary.last_trouble == rig.errors[0]


def test_classes_and_confidence_restrict_the_mask_from_the_next_frame_on(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig("off", max_age_ms=0)
    changes: list[dict[str, object]] = [{}, {"classes": ("green",)}, {"min_confidence": 1.0}]
    for number, change in enumerate(changes, start=1):
        rig.pipeline.adapt(SegmentationParameters(model="m", depth_mode="off", max_age_ms=0, **change))
        rig.send(color_of(number), None)
        rig.settle()
    shown = [set(image_to_mask(result.mask).flat) for result in rig.results]
    assert shown == [{0, 1}, {0}, {0, 1}]
    np.testing.assert_array_equal(rig.results[1].segmentation.mask, image_to_mask(rig.results[1].mask))


def test_a_leading_slash_is_no_other_frame_and_an_option_says_what_is_aligned(new_rig: Callable[..., Rig]) -> None:
    for aligned, frame in ((False, "/optical"), (True, "depth_optical")):
        rig = new_rig(aligned=aligned)
        rig.send(color_of(1), depth_of(1, frame_id=frame))
        rig.settle()
        assert len(rig.results) == 1 and rig.segmenter.depths[0] is not None
    rig = new_rig("optional", aligned=True)
    rig.send(color_of(1), depth_of(1, size=(4, 5)))  # the sizes must be equal all the same
    rig.settle()
    assert rig.segmenter.depths == [None] and "colour is 6x4, depth is 5x4" in rig.errors[0]


def test_depth_in_another_unit_is_told_and_read_as_the_parameter_says(new_rig: Callable[..., Rig]) -> None:
    metres = np.random.default_rng(0).integers(1, 6, SIZE).astype(np.uint16)
    depth = array_to_image(metres, color_of(1).header)
    for unit, expected in (("auto", metres / 1000), ("m", metres)):
        rig = new_rig(depth_unit=unit, max_depth_m=0.0)
        rig.send(color_of(1), depth)
        rig.settle()
        assert rig.segmenter.depths[0] == pytest.approx(expected)
        said = [text for text in (*rig.errors, rig.pipeline.statistics.summary.last_trouble) if "depth_unit:=m" in text]
        assert len(said) == (2 if unit == "auto" else 0)
    rig = new_rig(depth_unit="m", max_depth_m=3.0)
    rig.send(color_of(1), depth)
    rig.settle()
    assert rig.segmenter.depths[0] == pytest.approx(np.where(metres > 3, 0, metres))


def test_depth_in_rvl_is_that_of_the_raw_image(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig()
    depth = depth_of(7)
    packed = CompressedImage(header=depth.header, format="16UC1; compressedDepth rvl")
    millimetres = np.frombuffer(depth.data, np.uint16).reshape(SIZE)
    packed.data.frombytes(bytes(12) + struct.pack("<II", SIZE[1], SIZE[0]) + encode(millimetres))
    rig.send(color_of(7), packed)
    rig.settle()
    np.testing.assert_allclose(rig.segmenter.depths[0], millimetres / 1000)
