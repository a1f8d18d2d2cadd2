"""Which synchroniser the parameters choose, and how it pairs."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from helpers.synchronizers import MS, WAYS, message

from deal_ros.input import optional_libraries
from deal_ros.input.create_synchronizer import create_synchronizer
from deal_ros.input.optional_libraries import OptionalLibrary
from deal_ros.input.synchronizer import DepthMode, Frame, StampSynchronizer, Synchronizer, SyncLimits


@WAYS
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
def test_the_parameters_choose_the_behaviour(
    way: str, mode: str, policy: str, offset_ms: int, expected: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "deal_core":
        absent = OptionalLibrary("message_filters", "pairing", "deal_core", "is not installed")
        monkeypatch.setattr(optional_libraries, "message_filters", lambda: absent)
    frames: list[Frame] = []
    limits = SyncLimits.of(DepthMode(mode), policy, slop_ms=15.0, timeout_ms=0.0)
    sync: Synchronizer = create_synchronizer(frames.append, DepthMode(mode), limits, queue_size=5)
    if mode != "off":
        assert isinstance(sync, StampSynchronizer) == (way == "deal_core")
        sync.add_depth(message((100 + offset_ms) * MS))
    sync.add_color(message(100 * MS))
    sync.expire()
    if policy == "approximate":  # both streams move on, so that it is certain that nothing closer will come
        sync.add_depth(message(200 * MS))
        sync.add_color(message(201 * MS))
    assert [f.depth is not None for f in frames if f.stamp_ns == 100 * MS] == expected
