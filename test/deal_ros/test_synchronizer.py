"""Frames from two topics: which are handed on, and the account of the others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from sensor_msgs.msg import Image

from deal_ros.conversions import stamp_from_ns
from deal_ros.synchronizer import (
    ColorOnly,
    DepthMode,
    Frame,
    StampSynchronizer,
    SyncCounts,
    Synchronizer,
    create_synchronizer,
)

MS = 1_000_000


def message(stamp_ns: int) -> Image:
    image = Image()
    image.header.stamp = stamp_from_ns(stamp_ns)
    return image


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


def test_equal_stamps_pair_in_either_order() -> None:
    frames: list[Frame] = []
    sync = StampSynchronizer(frames.append, slop_ns=0, queue_size=4)
    color, depth = message(5), message(5)
    sync.add_depth(depth)
    assert not frames
    sync.add_color(color)
    assert frames[0].stamp_ns == 5 and frames[0].color is color and frames[0].depth is depth


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


def test_optional_depth_is_waited_for_and_then_done_without() -> None:
    frames: list[Frame] = []
    clock = Clock()
    sync = StampSynchronizer(frames.append, slop_ns=0, queue_size=4, alone_after_s=0.1, clock=clock)
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


def test_required_depth_is_waited_for_until_the_queue_is_full() -> None:
    frames: list[Frame] = []
    sync = StampSynchronizer(frames.append, slop_ns=0, queue_size=2)
    for stamp in range(5):
        sync.add_color(message(stamp))
    sync.expire()
    assert not frames
    assert sync.counts.unpaired_color == {"queue full": 3} and sync.counts.pending_color == 2
    check_balance(sync.counts, frames)


@given(
    st.lists(st.tuples(st.sampled_from(["color", "depth", "wait"]), st.integers(0, 30)), max_size=60),
    st.sampled_from([0, 3]),
    st.sampled_from([None, 0.5]),
)
def test_every_message_is_accounted_for(
    events: list[tuple[str, int]], slop_ns: int, alone_after_s: float | None
) -> None:
    frames: list[Frame] = []
    clock = Clock()
    sync = StampSynchronizer(frames.append, slop_ns=slop_ns, queue_size=3, alone_after_s=alone_after_s, clock=clock)
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


@pytest.mark.parametrize(
    ("mode", "policy", "offset_ms", "expected"),
    [
        ("off", "exact", 0, [False]),
        ("required", "exact", 0, [True]),
        ("required", "exact", 1, []),
        ("required", "approximate", 10, [True]),
        ("required", "approximate", 20, []),
        ("optional", "exact", 0, [True]),
        ("optional", "exact", 1, [False]),
    ],
)
def test_the_parameters_choose_the_behaviour(mode: str, policy: str, offset_ms: int, expected: list[bool]) -> None:
    frames: list[Frame] = []
    sync: Synchronizer = create_synchronizer(
        frames.append, depth_mode=DepthMode(mode), policy=policy, slop_ms=15.0, queue_size=5, timeout_ms=0.0
    )
    if mode != "off":
        sync.add_depth(message((100 + offset_ms) * MS))
    sync.add_color(message(100 * MS))
    sync.expire()
    if policy == "approximate":  # both streams move on, so that it is certain that nothing closer will come
        sync.add_depth(message(200 * MS))
        sync.add_color(message(201 * MS))
    assert [f.depth is not None for f in frames if f.stamp_ns == 100 * MS] == expected
