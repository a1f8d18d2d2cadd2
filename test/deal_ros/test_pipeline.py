"""The pipeline with a network of our own: what reaches it, what comes out, and the account of the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from deal_core.runtime import Segmentation
from deal_ros.conversions import array_to_image, image_to_mask, stamp_from_ns
from deal_ros.pipeline import SegmentationPipeline, effective_depth_mode
from deal_ros.segmentation_job import SegmentedFrame
from deal_ros.segmentation_parameters import SegmentationParameters
from deal_ros.synchronizer import DepthMode

SIZE = (4, 6)
MS = 1_000_000


@dataclass
class Red:
    """Labels with 1 what is more red than green, and 255 what has no depth."""

    depths: list[np.ndarray | None] = field(default_factory=list)
    gate: threading.Semaphore | None = None

    def segment(self, rgb: np.ndarray, depth: np.ndarray | None = None) -> Segmentation:
        if self.gate is not None:
            assert self.gate.acquire(timeout=10)
        self.depths.append(depth)
        mask = (rgb[..., 0] > rgb[..., 1]).astype(np.uint8)
        if depth is not None:
            mask[depth == 0] = 255
        return Segmentation(mask, np.ones(mask.shape, np.float32))


@dataclass
class Rig:
    pipeline: SegmentationPipeline
    segmenter: Red
    results: list[SegmentedFrame]
    errors: list[str]
    clock: list[int]

    def send(self, color: Image | CompressedImage, depth: Image | CompressedImage | None) -> None:
        self.pipeline.synchronizer.add_color(color)
        if depth is not None:
            self.pipeline.synchronizer.add_depth(depth)

    def settle(self) -> None:
        assert self.pipeline._worker.wait_idle(10)
        counts, work = self.pipeline.synchronizer.counts, self.pipeline.work
        assert counts.paired + counts.color_alone == work.submitted
        assert work.submitted == work.done + work.dropped + sum(work.failed.values()) + work.in_flight
        assert work.done == len(self.results)


@pytest.fixture
def new_rig(request: pytest.FixtureRequest) -> Callable[..., Rig]:
    def make(depth_mode: str = "required", gate: threading.Semaphore | None = None, **parameters: object) -> Rig:
        results: list[SegmentedFrame] = []
        errors: list[str] = []
        clock = [0]
        segmenter = Red(gate=gate)
        pipeline = SegmentationPipeline(
            segmenter,
            SegmentationParameters(model="m", depth_mode=depth_mode, **parameters),
            DepthMode(depth_mode),
            publish=results.append,
            now_ns=lambda: clock[0],
            on_error=errors.append,
        )
        request.addfinalizer(pipeline.stop)
        pipeline.start()
        return Rig(pipeline, segmenter, results, errors, clock)

    return make


def color_of(stamp_ns: int, frame_id: str = "optical", size: tuple[int, int] = SIZE) -> Image:
    rgb = np.random.default_rng(stamp_ns).integers(0, 256, (*size, 3), np.uint8)
    return array_to_image(rgb, Header(stamp=stamp_from_ns(stamp_ns), frame_id=frame_id))


def depth_of(stamp_ns: int, frame_id: str = "optical", size: tuple[int, int] = SIZE) -> Image:
    depth = np.random.default_rng(stamp_ns).integers(0, 3, size).astype(np.uint16) * 1000
    return array_to_image(depth, Header(stamp=stamp_from_ns(stamp_ns), frame_id=frame_id))


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


def test_a_damaged_jpeg_is_a_failed_frame_and_no_error_of_the_callback(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig("off")
    damaged = CompressedImage(header=color_of(1).header, format="jpeg")
    damaged.data.frombytes(b"\xff\xd8 and no more")
    for color in (damaged, color_of(2)):
        rig.send(color, None)
        rig.settle()
    assert rig.pipeline.work.failed == {"length": 1} and len(rig.results) == 1
    assert "frame 1: length: expected a complete image of format 'jpeg'" in rig.errors[0]


def test_colour_goes_without_depth_where_depth_is_off(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig("off")
    rig.send(color_of(1), None)
    rig.settle()
    assert rig.segmenter.depths == [None] and rig.results[0].valid_depth is None


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


def test_a_network_that_fails_is_counted_by_its_error(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(gate=threading.Semaphore(0))
    rig.segmenter.segment = lambda rgb, depth=None: 1 / 0  # type: ignore[method-assign]
    rig.send(color_of(1), depth_of(1))
    rig.settle()
    assert rig.pipeline.work.failed == {"ZeroDivisionError": 1}


@pytest.mark.parametrize(("max_age_ms", "published"), [(250, 1), (0, 2)])
def test_frames_beyond_the_age_limit_are_dropped(
    new_rig: Callable[..., Rig], max_age_ms: float, published: int
) -> None:
    rig = new_rig(max_age_ms=max_age_ms)
    rig.clock[0] = 1000 * MS
    for stamp_ns in (700 * MS, 800 * MS):
        rig.send(color_of(stamp_ns), depth_of(stamp_ns))
        rig.settle()
    assert len(rig.results) == published and rig.pipeline.work.dropped_old == 2 - published
    if published == 1:
        assert rig.pipeline.statistics.summary.oldest_dropped_ms == pytest.approx(300)
        assert rig.pipeline.statistics.summary.age_at_start_ms.p50 == pytest.approx(200)


def test_only_the_newest_of_the_waiting_frames_is_segmented(new_rig: Callable[..., Rig]) -> None:
    gate = threading.Semaphore(0)
    rig = new_rig(gate=gate, max_age_ms=0)
    for stamp_ns in range(1, 30):
        rig.send(color_of(stamp_ns), depth_of(stamp_ns))
    gate.release(30)
    rig.settle()
    assert rig.results[-1].mask.header.stamp == stamp_from_ns(29)
    assert rig.pipeline.work.dropped_busy == 29 - len(rig.results) >= 27


def test_optional_depth_is_off_for_a_model_that_does_not_use_it() -> None:
    assert effective_depth_mode("optional", uses_depth=False) is DepthMode.OFF
    assert effective_depth_mode("optional", uses_depth=True) is DepthMode.OPTIONAL
    assert effective_depth_mode("required", uses_depth=False) is DepthMode.REQUIRED
