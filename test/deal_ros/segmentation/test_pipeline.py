"""The pipeline with a network of our own: what reaches it, what comes out, and the account of the rest."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from helpers.pipeline_rig import MS, Red, Rig, color_of, depth_of
from sensor_msgs.msg import CompressedImage

from deal_ros.input.conversions import stamp_from_ns
from deal_ros.input.synchronizer import DepthMode


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


@pytest.mark.parametrize("is_simulated", [True, False])
@pytest.mark.parametrize("depth_first", [True, False])
def test_a_loop_of_a_short_recording_gives_masks_every_time(
    new_rig: Callable[..., Rig], is_simulated: bool, depth_first: bool
) -> None:
    """With simulated time the clock goes back with the stamps; without, the first stamps come again."""
    rig = new_rig(max_age_ms=0.0)
    for loop in range(3):
        for stamp in range(1, 6):
            rig.clock[0] = (stamp if is_simulated else 10 * loop + stamp) * 33 * MS
            color, depth = color_of(stamp * 33 * MS), depth_of(stamp * 33 * MS)
            for stream in ("depth", "color") if depth_first else ("color", "depth"):
                rig.pipeline.notice_restart(stream, color if stream == "color" else depth)
                if stream == "color":
                    rig.pipeline.synchronizer.add_color(color)
                else:
                    rig.pipeline.synchronizer.add_depth(depth)
            rig.settle()
    counts = rig.pipeline.sync
    assert len(rig.results) == 15 == counts.paired and counts.received_color == counts.received_depth == 15


def test_a_message_that_comes_again_is_no_restart(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(max_age_ms=0.0)
    for stamp in (1, 2, 2, 1, 3, 2, 4):
        color, depth = color_of(stamp * 20 * MS), depth_of(stamp * 20 * MS)
        for stream, message in (("color", color), ("depth", depth)):
            rig.pipeline.notice_restart(stream, message)
        rig.send(color, depth)
        rig.settle()
    counts = rig.pipeline.sync
    assert counts.paired == 4 and counts.unpaired_color == counts.unpaired_depth == {"duplicate stamp": 3}
