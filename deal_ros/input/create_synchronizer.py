"""Create the synchroniser that pairs colour and depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from deal_ros.input import optional_libraries
from deal_ros.input.synchronizer import ColorOnly, DepthMode, Frame, StampSynchronizer, Synchronizer, SyncLimits

if TYPE_CHECKING:
    from deal_ros.input.message_filters_synchronizer import FiltersSynchronizer


def create_synchronizer(
    on_frame: Callable[[Frame], None], depth_mode: DepthMode, limits: SyncLimits, queue_size: int
) -> Synchronizer:
    """Return a synchroniser for a depth mode; it uses message_filters if that library works here.

    Args:
        on_frame: called with each frame.
        depth_mode: whether frames have depth.
        limits: limits of pairing.
        queue_size: maximum number of messages that wait on each stream.
    """
    if depth_mode is DepthMode.OFF:
        return ColorOnly(on_frame)
    return _pairing_class()(on_frame, slop_ns=limits.slop_ns, queue_size=queue_size, alone_after_s=limits.alone_after_s)


def _pairing_class() -> type[StampSynchronizer | FiltersSynchronizer]:
    if not optional_libraries.message_filters().is_usable:
        return StampSynchronizer
    from deal_ros.input.message_filters_synchronizer import FiltersSynchronizer

    return FiltersSynchronizer
