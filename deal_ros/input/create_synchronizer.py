"""Create the synchroniser that pairs colour and depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from deal_ros.input import optional_libraries
from deal_ros.input.synchronizer import (
    ColorOnly,
    DepthMode,
    Frame,
    StampSynchronizer,
    Synchronizer,
    SyncLimits,
)

if TYPE_CHECKING:
    from deal_ros.input.message_filters_synchronizer import FiltersSynchronizer


def create_synchronizer(
    on_frame: Callable[[Frame], None],
    *,
    depth_mode: DepthMode,
    policy: str,
    slop_ms: float,
    queue_size: int,
    timeout_ms: float,
) -> Synchronizer:
    """Return the synchroniser for the node's parameters; it uses message_filters if that library works here.

    Args:
        on_frame: called with each frame.
        depth_mode: whether frames have depth.
        policy: "exact" pairs equal stamps (RealSense with aligned depth), "approximate" pairs stamps within the slop.
        slop_ms: maximum difference between the stamps of a pair with the approximate policy, milliseconds.
        queue_size: maximum number of messages that wait on each stream.
        timeout_ms: how long a colour image waits for depth in mode optional, milliseconds.
    """
    if depth_mode is DepthMode.OFF:
        return ColorOnly(on_frame)
    limits = SyncLimits.of(depth_mode, policy, slop_ms, timeout_ms)
    return _pairing_class()(on_frame, slop_ns=limits.slop_ns, queue_size=queue_size, alone_after_s=limits.alone_after_s)


def _pairing_class() -> type[StampSynchronizer | FiltersSynchronizer]:
    if not optional_libraries.message_filters().is_usable:
        return StampSynchronizer
    from deal_ros.input.message_filters_synchronizer import FiltersSynchronizer

    return FiltersSynchronizer
