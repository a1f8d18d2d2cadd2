"""The pipeline with a network of our own: what reaches it, what comes out, and the account of the rest."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from helpers.workers import wait_idle
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from deal_core.runtime.segmenter import Segmentation
from deal_core.structures import ClassList
from deal_ros.input.conversions import array_to_image, image_to_mask, stamp_from_ns
from deal_ros.input.synchronizer import DepthMode
from deal_ros.segmentation.one_frame import SegmentedFrame
from deal_ros.segmentation.parameters import SegmentationParameters
from deal_ros.segmentation.pipeline import SegmentationPipeline, effective_depth_mode

SIZE = (4, 6)
MS = 1_000_000


@dataclass
class Red:
    """Labels with 1 what is more red than green, and 255 what has no depth."""

    classes = ClassList(("red", "green"))
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
        self.wait_idle()
        counts, work = self.pipeline.sync, self.pipeline.work
        assert counts.paired + counts.color_alone == work.submitted
        assert work.submitted == work.done + work.dropped + sum(work.failed.values()) + work.in_flight
        assert work.done == len(self.results)

    def wait_idle(self) -> None:
        wait_idle(lambda: self.pipeline.work)


@pytest.fixture
def new_rig(request: pytest.FixtureRequest) -> Callable[..., Rig]:
    def make(
        depth_mode: str = "required",
        gate: threading.Semaphore | None = None,
        *,
        keeps_results: bool = True,
        publish_more: Callable[[SegmentedFrame], object] = lambda result: None,
        **parameters: object,
    ) -> Rig:
        results: list[SegmentedFrame] = []
        errors: list[str] = []
        clock = [0]
        segmenter = Red(gate=gate)
        pipeline = SegmentationPipeline(
            segmenter,
            SegmentationParameters(model="m", depth_mode=depth_mode, **parameters),
            DepthMode(depth_mode),
            publish=results.append if keeps_results else lambda result: None,
            publish_more=publish_more,  # type: ignore[arg-type]
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


def test_optional_depth_is_off_while_nothing_uses_it() -> None:
    assert effective_depth_mode("optional", is_used=False) is DepthMode.OFF
    assert effective_depth_mode("optional", is_used=True) is DepthMode.OPTIONAL
    assert effective_depth_mode("required", is_used=False) is DepthMode.REQUIRED


@pytest.mark.parametrize("depth", [depth_of(1, size=(4, 5)), color_of(1)])
def test_optional_depth_that_cannot_be_used_is_left_out_and_told(new_rig: Callable[..., Rig], depth: Image) -> None:
    rig = new_rig("optional")
    rig.send(color_of(1), depth)
    rig.settle()
    assert rig.segmenter.depths == [None] and len(rig.results) == 1 and not rig.pipeline.work.failed
    summary = rig.pipeline.statistics.summary
    assert summary.troubles == 1 and "frame 1: depth ignored: un" in summary.last_trouble == rig.errors[0]


def test_depth_wanted_for_a_while_leaves_no_message_uncounted(new_rig: Callable[..., Rig]) -> None:
    """Colour alone, then pairs, then colour alone: what waits at the end goes on alone, or is counted."""
    rig = new_rig("off", max_age_ms=0)
    rig.send(color_of(1), None)
    rig.settle()
    rig.pipeline.pair_by(DepthMode.OPTIONAL)
    for color, depth in ((color_of(2), depth_of(2)), (color_of(3), depth_of(4))):
        rig.send(color, depth)
        rig.settle()
    assert [result.inputs.depth is None for result in rig.results] == [True, False]
    rig.pipeline.pair_by(DepthMode.OFF)
    rig.settle()
    rig.send(color_of(5), None)
    rig.settle()
    assert [result.mask.header.stamp.nanosec for result in rig.results] == [1, 2, 3, 5]
    found = rig.pipeline.sync
    assert (found.received_color, found.received_depth, found.paired, found.color_alone) == (4, 2, 1, 3)
    assert found.unpaired_depth == {"no longer wanted": 1} and found.pending_color == found.pending_depth == 0


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


def test_an_output_that_raises_costs_no_mask(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig("off", publish_more=lambda result: 1 / 0)
    rig.send(color_of(1), None)
    rig.settle()
    assert len(rig.results) == 1 and rig.pipeline.work.done == 1
    assert "outputs other than the mask: ZeroDivisionError" in rig.pipeline.statistics.summary.last_trouble


def test_frames_beyond_the_rate_and_while_switched_off_are_dropped_and_counted(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig("off", max_age_ms=0, max_rate_hz=0.001)
    for number in (1, 2):
        rig.send(color_of(number), None)
        rig.settle()
    rig.pipeline.enable(False)
    rig.send(color_of(3), None)
    rig.settle()
    assert len(rig.results) == 1 and rig.pipeline.work.dropped_refused == {"rate": 1, "disabled": 1}


def test_another_segmenter_takes_over_between_two_frames(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig("off", max_age_ms=0)
    other, taken = Red(), threading.Event()
    rig.send(color_of(1), None)
    rig.settle()
    rig.pipeline.use(other, taken.set)
    assert taken.wait(10)
    rig.send(color_of(2), None)
    rig.settle()
    assert len(rig.segmenter.depths) == len(other.depths) == 1


def test_the_last_frame_has_its_mask_while_the_next_is_worked_on_and_none_where_it_failed(
    new_rig: Callable[..., Rig],
) -> None:
    gate, begun = threading.Semaphore(1), threading.Event()
    rig = new_rig("off", gate, max_age_ms=0)
    rig.send(color_of(1), None)
    rig.settle()
    segment = rig.segmenter.segment
    rig.segmenter.segment = lambda *images: begun.set() or segment(*images)  # type: ignore[func-returns-value, method-assign]
    rig.send(color_of(2), None)
    assert begun.wait(10)
    assert rig.pipeline.last and rig.pipeline.last.result is rig.results[0]
    gate.release()
    rig.settle()
    assert rig.pipeline.last.frame.stamp_ns == 2 and rig.pipeline.last.result is rig.results[1]
    broken = color_of(3)
    broken.step = 1
    rig.send(broken, None)
    rig.settle()
    assert rig.pipeline.last.frame.stamp_ns == 3 and rig.pipeline.last.result is None


@pytest.mark.slow
def test_ten_thousand_pairs_leave_no_memory_behind(new_rig: Callable[..., Rig]) -> None:
    """With whatever goes wrong among them; what a pair weighs, 100 kB, would show after a hundred of them."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    rig = new_rig("optional", max_age_ms=0, keeps_results=False)
    size, before = (128, 160), 0
    for number in range(1, 11_001):
        if number == 1_000:
            before = resident()
        depth = depth_of(number, size=size if number % 7 else (4, 5))
        rig.send(color_of(number, size=size), depth if number % 11 else None)
        if number % 20 == 0:
            rig.wait_idle()
        rig.segmenter.depths.clear()
        rig.errors.clear()
    counts, work = rig.pipeline.sync, rig.pipeline.work
    assert counts.received_color == 11_000 and work.done > 500 and counts.pending_color <= 10
    assert resident() - before < 20 * 2**20
