"""What the synthetic camera is going to send: every fault on its own, no ROS needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_core.recording.image_encodings import to_depth_m, to_rgb
from deal_core.structures import CameraIntrinsics
from deal_ros.synthetic_camera.parameters import SyntheticCameraParameters
from deal_ros.synthetic_camera.plan import (
    DEPTH_FRAME,
    Fate,
    FramePlan,
    ImagePlan,
    Tick,
    color_pixels,
    depth_pixels,
    next_tick,
    plan_frame,
    scaled_camera,
    view_at,
)

CAMERA = CameraIntrinsics(64, 48, 80.0, 82.0, 31.5, 23.5)
NOW, MS, S = 1_700_000_000_000_000_000, 10**6, 10**9
RGB = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
DEPTH = np.random.default_rng(1).integers(0, 3, (48, 64), np.uint16) * np.uint16(700)


def frame(number: int = 7, before: FramePlan | None = None, **faults: Any) -> FramePlan:
    wanted = SyntheticCameraParameters(**faults)
    return plan_frame(Tick(number, NOW + number * 33 * MS, view=number % 3, before=before), CAMERA, wanted)


def test_without_faults_both_images_share_stamp_frame_and_size() -> None:
    plan = frame(7)
    expected = ImagePlan(NOW + 231 * MS, "camera_color_optical_frame", (64, 48), "rgb8")
    assert plan.color == expected
    assert plan == FramePlan(1, expected, ImagePlan(expected.stamp_ns, expected.frame_id, (64, 48), "16UC1"))


@pytest.mark.parametrize(
    ("faults", "color", "depth"),
    [
        ({"lost_color": 1.0}, {"fate": Fate.LOST}, {}),
        ({"lost_depth": 1.0}, {}, {"fate": Fate.LOST}),
        ({"late_depth_ms": 250.0}, {}, {"delay_s": 0.25}),
        ({"depth_stamp_offset_ms": -4.0}, {}, {"stamp_ns": NOW - 4 * MS}),
        ({"stamp_offset_s": -2.0}, {"stamp_ns": NOW - 2 * S}, {"stamp_ns": NOW - 2 * S}),
        ({"resolution": "32x40"}, {"size": (32, 40)}, {"size": (32, 40)}),
        ({"unaligned": "frame"}, {}, {"frame_id": DEPTH_FRAME}),
        ({"unaligned": "size"}, {}, {"size": (32, 24)}),
        ({"color_encoding": "8UC3"}, {"encoding": "8UC3"}, {}),
        ({"depth_encoding": "32FC1"}, {}, {"encoding": "32FC1"}),
        ({"empty_depth": True}, {}, {"is_empty": True}),
        ({"malformed": "color_step"}, {"defect": "step"}, {}),
        ({"malformed": "depth_truncated"}, {}, {"defect": "truncated"}),
        ({"silent": True}, {"fate": Fate.WITHHELD}, {"fate": Fate.WITHHELD}),
        ({"unplugged": True, "lost_depth": 1.0}, {"fate": Fate.WITHHELD}, {"fate": Fate.WITHHELD}),
    ],
)
def test_a_fault_changes_what_it_is_about_and_nothing_else(
    faults: dict[str, Any], color: dict[str, Any], depth: dict[str, Any]
) -> None:
    from dataclasses import replace

    usual = frame(0)
    assert frame(0, **faults) == FramePlan(0, replace(usual.color, **color), replace(usual.depth, **depth))


def test_a_frozen_camera_keeps_its_view_and_a_duplicate_its_stamp() -> None:
    before = frame(1)
    assert frame(2, before, frozen=True).view == before.view == 1
    assert frame(2, before, frozen=True).color.stamp_ns > before.color.stamp_ns
    repeated = frame(2, before, duplicate_stamps=1.0)
    assert repeated.view == 2
    assert repeated.color.stamp_ns == repeated.depth.stamp_ns == before.color.stamp_ns
    assert frame(0, frozen=True, duplicate_stamps=1.0) == frame(0)


def test_shares_are_met_and_the_streams_lose_different_frames() -> None:
    plans = [frame(number, lost_color=0.3, lost_depth=0.3) for number in range(4000)]
    color = np.array([plan.color.fate is Fate.LOST for plan in plans])
    depth = np.array([plan.depth.fate is Fate.LOST for plan in plans])
    assert abs(color.mean() - 0.3) < 0.03 and abs(depth.mean() - 0.3) < 0.03
    assert abs((color & depth).mean() - 0.09) < 0.02
    assert plans == [frame(number, lost_color=0.3, lost_depth=0.3) for number in range(4000)]


@given(st.integers(-1, 10_000), st.floats(0, 400), st.sampled_from([5, 30, 60]))
def test_ticks_that_are_missed_are_skipped_and_not_bunched(last: int, elapsed: float, rate: int) -> None:
    found = next_tick(last, elapsed, rate)
    assert found > last
    late = elapsed * rate - found
    assert late <= 0.5 + 1e-9, "sent at once, it would be closer to the next one than half a period"
    if found > last + 1:
        assert late >= -0.5 - 1e-9, "no more is skipped than was missed"


def test_views_are_shown_back_and_forth() -> None:
    assert [view_at(number, 3, 1) for number in range(9)] == [0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert [view_at(number, 2, 3.0) for number in range(8)] == [0, 0, 0, 1, 1, 1, 0, 0]
    assert {view_at(number, 1, 1) for number in range(5)} == {0}


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_colour_is_the_same_in_every_encoding(encoding: str) -> None:
    pixels = color_pixels(frame(color_encoding=encoding).color, RGB)
    np.testing.assert_array_equal(to_rgb(pixels, encoding), RGB)


def test_depth_is_the_same_in_every_encoding() -> None:
    for encoding in ("16UC1", "mono16", "32FC1"):
        pixels = depth_pixels(frame(depth_encoding=encoding).depth, DEPTH)
        metres, valid = to_depth_m(pixels, encoding)
        np.testing.assert_array_equal(valid, DEPTH > 0)
        np.testing.assert_allclose(metres, DEPTH / 1000)
    assert np.isnan(pixels).sum() == (DEPTH == 0).sum()


def test_empty_depth_is_zero_or_nan() -> None:
    assert not depth_pixels(frame(empty_depth=True).depth, DEPTH).any()
    assert np.isnan(depth_pixels(frame(empty_depth=True, depth_encoding="32FC1").depth, DEPTH)).all()
    assert DEPTH.any()


def test_another_size_shows_the_same_scene() -> None:
    plan = frame(resolution="128x96")
    big = np.repeat(np.repeat(DEPTH, 2, 0), 2, 1)
    np.testing.assert_array_equal(depth_pixels(plan.depth, DEPTH), big)
    assert color_pixels(plan.color, RGB).shape == (96, 128, 3)
    camera = scaled_camera(CAMERA, plan.color)
    assert (camera.width, camera.height) == (128, 96) and camera.frame_id == plan.color.frame_id
    # The middle of pixel (10, 20) lies on the border between its four pixels; the same ray goes through both.
    assert (20.5 - camera.cx) / camera.fx == pytest.approx((10 - CAMERA.cx) / CAMERA.fx)
    assert (40.5 - camera.cy) / camera.fy == pytest.approx((20 - CAMERA.cy) / CAMERA.fy)
