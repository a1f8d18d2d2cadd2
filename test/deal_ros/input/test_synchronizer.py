"""Frames from two topics: which are handed on, and the account of the others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from helpers.synchronizers import MS, WAYS, message, new_synchronizer

from deal_ros.input.synchronizer import ColorOnly, Frame, SyncCounts, SyncLimits


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def check_balance(counts: SyncCounts, frames: list[Frame]) -> None:
    unpaired_color, unpaired_depth = sum(counts.unpaired_color.values()), sum(counts.unpaired_depth.values())
    assert counts.received_color == counts.paired + counts.color_alone + unpaired_color + counts.pending_color
    assert counts.received_depth == counts.paired + unpaired_depth + counts.pending_depth
    assert counts.paired == sum(f.depth is not None for f in frames)
    assert counts.color_alone == sum(f.depth is None for f in frames)


@WAYS
def test_equal_stamps_pair_in_either_order(way: str) -> None:
    frames: list[Frame] = []
    sync = new_synchronizer(way, frames, slop_ns=0, queue_size=4)
    color, depth = message(5), message(5)
    sync.add_depth(depth)
    assert not frames
    sync.add_color(color)
    assert frames[0].stamp_ns == 5 and frames[0].color is color and frames[0].depth is depth
    sync.add_color(message(6))
    sync.add_depth(message(6))
    assert [f.stamp_ns for f in frames] == [5, 6]
    check_balance(sync.counts, frames)


def test_depth_off_hands_every_colour_image_on() -> None:
    frames: list[Frame] = []
    sync = ColorOnly(frames.append)
    for stamp in (1, 2, 2):
        sync.add_color(message(stamp))
    sync.expire()
    assert [f.stamp_ns for f in frames] == [1, 2, 2] and all(f.depth is None for f in frames)
    check_balance(sync.counts, frames)
    with pytest.raises(RuntimeError, match="depth"):
        sync.add_depth(message(1))


@WAYS
def test_optional_depth_is_waited_for_and_then_done_without(way: str) -> None:
    frames: list[Frame] = []
    clock = Clock()
    sync = new_synchronizer(way, frames, slop_ns=0, queue_size=4, alone_after_s=0.1, clock=clock)
    sync.add_color(message(10))
    clock.now += 0.05
    sync.add_color(message(20))
    sync.expire()
    assert not frames
    clock.now += 0.05
    sync.expire()
    assert [(f.stamp_ns, f.depth) for f in frames] == [(10, None)]
    sync.add_depth(message(20))  # in time
    sync.add_depth(message(10))  # too late
    clock.now += 1
    sync.expire()
    assert [f.stamp_ns for f in frames] == [10, 20] and frames[1].depth is not None
    assert sync.counts.color_alone == 1 and not sync.counts.unpaired_color
    check_balance(sync.counts, frames)


@WAYS
def test_required_depth_is_waited_for_until_the_queue_is_full(way: str) -> None:
    frames: list[Frame] = []
    sync = new_synchronizer(way, frames, slop_ns=0, queue_size=2)
    for stamp in range(5):
        sync.add_color(message(stamp))
    sync.expire()
    assert not frames
    assert sync.counts.unpaired_color == {"queue full": 3} and sync.counts.pending_color == 2
    check_balance(sync.counts, frames)


@WAYS
@pytest.mark.parametrize(("offset_ns", "pairs"), [(15 * MS - 1, 1), (15 * MS, 1), (15 * MS + 1, 0)])
def test_the_slop_itself_still_pairs(way: str, offset_ns: int, pairs: int) -> None:
    frames: list[Frame] = []
    sync = new_synchronizer(way, frames, slop_ns=15 * MS, queue_size=4)
    sync.add_color(message(1000 * MS))
    sync.add_depth(message(1000 * MS + offset_ns))
    sync.add_color(message(2000 * MS))
    sync.add_depth(message(3000 * MS))
    assert sync.counts.paired == pairs
    check_balance(sync.counts, frames)


@WAYS
@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_streams_in_order_give_all_their_pairs(way: str, colors: set[int], depths: set[int]) -> None:
    frames: list[Frame] = []
    sync = new_synchronizer(way, frames, slop_ns=0, queue_size=50)
    for stamp in range(41):
        for found, add in ((colors, sync.add_color), (depths, sync.add_depth)):
            if stamp in found:
                add(message(stamp))
    assert [f.stamp_ns for f in frames] == sorted(colors & depths)
    check_balance(sync.counts, frames)


@WAYS
def test_colour_that_lost_its_depth_goes_alone_once(way: str) -> None:
    frames: list[Frame] = []
    clock = Clock()
    sync = new_synchronizer(way, frames, slop_ns=0, queue_size=4, alone_after_s=0.1, clock=clock)
    for stamp in (1, 2, 3):
        sync.add_color(message(stamp))
    for stamp in (2, 3):
        sync.add_depth(message(stamp))
    clock.now += 1
    sync.expire()
    sync.add_depth(message(1))
    assert sorted((f.stamp_ns, f.depth is None) for f in frames) == [(1, True), (2, False), (3, False)]
    check_balance(sync.counts, frames)


@WAYS
@pytest.mark.parametrize("slop_ns", [0, 3])
def test_pairing_goes_on_when_a_recording_begins_anew(way: str, slop_ns: int) -> None:
    frames: list[Frame] = []
    sync = new_synchronizer(way, frames, slop_ns=slop_ns, queue_size=3)
    for start in (1000, 0):  # without partner, the images of the first pass wait for ever
        for stamp in range(start, start + 200, 10):
            sync.add_color(message(stamp))
            sync.add_depth(message(stamp if start == 0 else stamp + 5))
            check_balance(sync.counts, frames)
    assert len(frames) >= 16 and frames[-1].stamp_ns == 190


@WAYS
@pytest.mark.parametrize("slop_ns", [0, 3])
def test_stamps_before_1970_do_not_stop_the_pairing(way: str, slop_ns: int) -> None:
    frames: list[Frame] = []
    sync = new_synchronizer(way, frames, slop_ns=slop_ns, queue_size=3)
    sync.add_color(message(-5_000_000_000))
    for add in (sync.add_color, sync.add_depth):
        add(message(7))
    assert [f.stamp_ns for f in frames] == [7]
    check_balance(sync.counts, frames)


@WAYS
def test_limits_that_change_hold_from_then_on_and_nothing_that_waits_is_lost(way: str) -> None:
    frames: list[Frame] = []
    clock = Clock()
    sync = new_synchronizer(way, frames, slop_ns=5 * MS, queue_size=4, alone_after_s=None, clock=clock)
    sync.add_color(message(0))
    sync.adapt(SyncLimits(slop_ns=20 * MS, alone_after_s=0.1))
    for stamp_ns in (15 * MS, 115 * MS):
        sync.add_depth(message(stamp_ns))
    sync.add_color(message(100 * MS))
    sync.add_color(message(400 * MS))  # what is nearer cannot come any more
    assert [(f.stamp_ns, f.depth is not None) for f in frames] == [(0, True), (100 * MS, True)]
    clock.now += 0.2
    sync.expire()
    assert [f.stamp_ns for f in frames] == [0, 100 * MS, 400 * MS]
    check_balance(sync.counts, frames)


@WAYS
def test_a_frame_that_is_not_taken_does_not_stop_the_pairing(way: str) -> None:
    class Choosy(list[Frame]):
        def append(self, frame: Frame) -> None:
            super().append(frame)
            if frame.stamp_ns == 1:
                raise ValueError("not this one")

    frames = Choosy()
    sync = new_synchronizer(way, frames, slop_ns=0, queue_size=3)
    sync.add_color(message(1))
    with pytest.raises(ValueError, match="not this one"):
        sync.add_depth(message(1))
    sync.add_color(message(2))
    sync.add_depth(message(2))
    assert [f.stamp_ns for f in frames] == [1, 2]
    check_balance(sync.counts, frames)


@WAYS
@given(
    st.lists(st.tuples(st.sampled_from(["color", "depth", "wait"]), st.integers(0, 30)), max_size=60),
    st.sampled_from([0, 3]),
    st.sampled_from([None, 0.5]),
)
def test_every_message_is_accounted_for(
    way: str, events: list[tuple[str, int]], slop_ns: int, alone_after_s: float | None
) -> None:
    frames: list[Frame] = []
    clock = Clock()
    sync = new_synchronizer(way, frames, slop_ns=slop_ns, queue_size=3, alone_after_s=alone_after_s, clock=clock)
    colors = []
    for kind, value in events:
        if kind == "wait":
            clock.now += value / 30
            sync.expire()
        elif kind == "color":
            colors.append(message(value))
            sync.add_color(colors[-1])
        else:
            sync.add_depth(message(value))
        check_balance(sync.counts, frames)
    handed_on = [id(f.color) for f in frames]
    assert len(handed_on) == len(set(handed_on)) and set(handed_on) <= {id(c) for c in colors}
    clock.now += 10
    sync.expire()
    if alone_after_s is not None:
        assert sync.counts.pending_color == 0
    check_balance(sync.counts, frames)
