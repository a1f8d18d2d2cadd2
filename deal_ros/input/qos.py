"""Quality of service: what inputs ask for, what outputs offer, and words for both."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from deal_ros.node.transport import has_profile

# A reliable writer keeps this many masks for retransmission. They are sent at once, so it adds no delay; with 1,
# a mask that a slow reader has not acknowledged would be overwritten by the next one and lost without a trace.
_MASK_DEPTH = 10
# What people and planners look at: the newest counts, and ten clouds of a large image would hold 200 MB.
_VIEW_DEPTH = 2
# The node takes images out at once (they wait in the newest-item slot), so this only bridges a busy moment.
INPUT_DEPTH = 5
# Our cameras keep this many images of a stream for readers that are slow to take them.
_CAMERA_DEPTH = 10
SHARED_MEMORY_LIMIT_BYTES = 500_000
"""Fast DDS' default shared memory segment; larger best-effort messages are lost."""


def mask_qos() -> QoSProfile:
    """Return what masks are offered with."""
    return QoSProfile(depth=_MASK_DEPTH, reliability=ReliabilityPolicy.RELIABLE)


def view_qos() -> QoSProfile:
    """Return what overlays, clouds and objects are offered with."""
    return QoSProfile(depth=_VIEW_DEPTH, reliability=ReliabilityPolicy.RELIABLE)


def compressed_qos() -> QoSProfile:
    """Return what compressed images are offered with: for a network that loses some, where waiting makes it worse."""
    return QoSProfile(depth=_VIEW_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)


def labels_qos() -> QoSProfile:
    """Return what labels are offered with: the last message waits for late subscribers."""
    return QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def camera_qos(reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE) -> QoSProfile:
    """Return what our own cameras offer images with; that of realsense-ros is reliable."""
    return QoSProfile(depth=_CAMERA_DEPTH, reliability=reliability)


def image_qos(reliability: ReliabilityPolicy, depth: int = INPUT_DEPTH) -> QoSProfile:
    """Return what an image subscription asks for; `depth` images may wait until the node takes them."""
    return QoSProfile(depth=depth, reliability=reliability)


def camera_info_qos() -> QoSProfile:
    """Return what a subscription to camera_info asks for: any offer will do, and so small a message is not lost."""
    return image_qos(ReliabilityPolicy.BEST_EFFORT)


def choose_reliability(
    wanted: str, offers: Sequence[ReliabilityPolicy], current: ReliabilityPolicy | None = None
) -> ReliabilityPolicy:
    """Return the reliability to ask for.

    Args:
        wanted: "reliable", "best_effort", or "auto" to take what the publishers offer.
        offers: of the publishers that are known; a best-effort one cannot serve a reliable request.
        current: what is asked for now; kept while nobody publishes.
    """
    if wanted != "auto":
        return ReliabilityPolicy.RELIABLE if wanted == "reliable" else ReliabilityPolicy.BEST_EFFORT
    if not offers:
        return current or ReliabilityPolicy.RELIABLE
    if any(offer == ReliabilityPolicy.BEST_EFFORT for offer in offers):
        return ReliabilityPolicy.BEST_EFFORT
    return ReliabilityPolicy.RELIABLE


def is_incompatible(request: ReliabilityPolicy, offers: Sequence[ReliabilityPolicy]) -> bool:
    """Return whether there are publishers and none of them can serve the request."""
    return (
        bool(offers)
        and request == ReliabilityPolicy.RELIABLE
        and all(offer == ReliabilityPolicy.BEST_EFFORT for offer in offers)
    )


def reliability_name(policy: ReliabilityPolicy) -> str:
    """Return the word for a reliability, as the parameters spell it."""
    return str(policy.name).lower()


def loses_large_best_effort(rmw: str) -> bool:
    """Return whether best-effort images beyond the default shared memory segment are lost in this process."""
    return rmw.startswith("rmw_fastrtps") and not has_profile(os.environ)
