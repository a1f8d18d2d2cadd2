"""What a frame becomes: its mask, what is said of its depth, and the causes of failure."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from helpers.pipeline_rig import SIZE, Rig, color_of, depth_of
from sensor_msgs.msg import CompressedImage, Image

from deal_ros.input.conversions import image_to_mask, stamp_from_ns
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
