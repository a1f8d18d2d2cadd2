"""Synchronisers of either library, and messages for them."""

from __future__ import annotations

from typing import Any

import pytest
from sensor_msgs.msg import Image

from deal_ros.input import optional_libraries
from deal_ros.input.conversions import stamp_from_ns
from deal_ros.input.synchronizer import Frame, StampSynchronizer, Synchronizer

MS = 1_000_000
FOUND = optional_libraries.message_filters()
WAYS = pytest.mark.parametrize(
    "way",
    [
        "deal_core",
        pytest.param(
            "message_filters", marks=pytest.mark.skipif(not FOUND.is_usable, reason=f"message_filters {FOUND.problem}")
        ),
    ],
)


def new_synchronizer(way: str, frames: list[Frame], **options: Any) -> Synchronizer:
    if way == "deal_core":
        return StampSynchronizer(frames.append, **options)
    from deal_ros.input.message_filters_synchronizer import FiltersSynchronizer

    return FiltersSynchronizer(frames.append, **options)


def message(stamp_ns: int) -> Image:
    image = Image()
    image.header.stamp = stamp_from_ns(stamp_ns)
    return image
