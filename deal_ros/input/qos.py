"""Quality of service (QoS) of subscriptions and publishers."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from deal_ros.node.transport import has_profile

# A reliable writer keeps this many masks for retransmission. Masks are sent at once, so the depth adds no latency; with
# depth 1 the next mask would overwrite a mask that a slow subscriber has not acknowledged.
_MASK_DEPTH = 10
# Subscribers of overlays and clouds need only the newest message; ten clouds of a large image would hold 200 MB.
_VIEW_DEPTH = 2
# The node takes images from the queue at once and keeps the newest one, so the queue only bridges short delays.
INPUT_DEPTH = 5
# The publishers of the synthetic camera and of the replay keep this many images for slow subscribers.
_CAMERA_DEPTH = 10
SHARED_MEMORY_LIMIT_BYTES = 500_000
"""Size of Fast DDS' default shared memory segment; larger best-effort messages are lost."""


def mask_qos() -> QoSProfile:
    """Return the QoS of mask publishers."""
    return QoSProfile(depth=_MASK_DEPTH, reliability=ReliabilityPolicy.RELIABLE)


def view_qos() -> QoSProfile:
    """Return the QoS of publishers of overlays, point clouds and objects."""
    return QoSProfile(depth=_VIEW_DEPTH, reliability=ReliabilityPolicy.RELIABLE)


def compressed_qos() -> QoSProfile:
    """Return the QoS of publishers of compressed images: best effort, because they cross lossy networks."""
    return QoSProfile(depth=_VIEW_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)


def labels_qos() -> QoSProfile:
    """Return the QoS of label publishers: transient local, so that late subscribers receive the last message."""
    return QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def camera_qos(reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE) -> QoSProfile:
    """Return the QoS of image publishers; like realsense-ros, they are reliable by default."""
    return QoSProfile(depth=_CAMERA_DEPTH, reliability=reliability)


def image_qos(reliability: ReliabilityPolicy, depth: int = INPUT_DEPTH) -> QoSProfile:
    """Return the QoS of an image subscription with a queue of `depth` images."""
    return QoSProfile(depth=depth, reliability=reliability)


def camera_info_qos() -> QoSProfile:
    """Return the QoS of a camera_info subscription: best effort matches any offer; small messages are not lost."""
    return image_qos(ReliabilityPolicy.BEST_EFFORT)


def choose_reliability(
    wanted: str, offers: Sequence[ReliabilityPolicy], current: ReliabilityPolicy | None = None
) -> ReliabilityPolicy:
    """Return the reliability that a subscription requests.

    Args:
        wanted: "reliable", "best_effort", or "auto" for the reliability that the publishers offer.
        offers: reliability of each known publisher; a best-effort publisher is incompatible with a reliable request.
        current: the reliability requested now; "auto" keeps it while there is no publisher.
    """
    if wanted != "auto":
        return ReliabilityPolicy.RELIABLE if wanted == "reliable" else ReliabilityPolicy.BEST_EFFORT
    if not offers:
        return current or ReliabilityPolicy.RELIABLE
    if any(offer == ReliabilityPolicy.BEST_EFFORT for offer in offers):
        return ReliabilityPolicy.BEST_EFFORT
    return ReliabilityPolicy.RELIABLE


def is_incompatible(request: ReliabilityPolicy, offers: Sequence[ReliabilityPolicy]) -> bool:
    """Return whether there are publishers and all of them are incompatible with the request."""
    return (
        bool(offers)
        and request == ReliabilityPolicy.RELIABLE
        and all(offer == ReliabilityPolicy.BEST_EFFORT for offer in offers)
    )


def reliability_name(policy: ReliabilityPolicy) -> str:
    """Return the name of a reliability as the parameters spell it, for example "best_effort"."""
    return str(policy.name).lower()


def loses_large_best_effort(rmw: str) -> bool:
    """Return whether this process loses best-effort images that exceed the default shared memory segment."""
    return rmw.startswith("rmw_fastrtps") and not has_profile(os.environ)
