"""Records how the camera moves: TF and odometry, as serialised messages that nobody decodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from deal_core.recording.image_messages import ODOMETRY, TRANSFORMS

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # not among the wheels on PyPI
    TFMessage = None
try:
    from nav_msgs.msg import Odometry
except ImportError:  # not among the wheels on PyPI
    Odometry = None

MOTION_TOPICS = ("/tf", "/tf_static", "odom")

_DEPTH = 100
_STATIC = "tf_static"


class MotionTopics:
    """Subscribes to topics of TF and odometry.

    Args:
        node: the node that subscribes.
        topics: names; those that end in `tf` or `tf_static` are of TF, all others of odometry.
        take: called with the full name of the topic, the type, the serialised message, and whether it is a static
            transform.

    Attributes:
        missing: names whose message package is not installed.
    """

    def __init__(self, node: Node, topics: Sequence[str], take: Callable[[str, str, bytes, bool], None]) -> None:
        self._node = node
        self.missing: list[str] = []
        self._subscriptions = []
        for name in topics:
            last = name.rsplit("/", 1)[-1]
            kind, message = (TRANSFORMS, TFMessage) if last in ("tf", _STATIC) else (ODOMETRY, Odometry)
            if message is None:
                self.missing.append(name)
                continue
            subscription = node.create_subscription(
                message, name, _taker(take, node.resolve_topic_name(name), kind, last == _STATIC), _qos(last), raw=True
            )
            self._subscriptions.append(subscription)

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []


def _taker(
    take: Callable[[str, str, bytes, bool], None], topic: str, kind: str, is_static: bool
) -> Callable[[Any], None]:
    return lambda data: take(topic, kind, bytes(data), is_static)


def _qos(last: str) -> QoSProfile:
    """Return the QoS of a subscription: that of tf2's listener; for odometry, best effort, which matches any offer."""
    if last == _STATIC:
        return QoSProfile(depth=_DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    return QoSProfile(
        depth=_DEPTH, reliability=ReliabilityPolicy.RELIABLE if last == "tf" else ReliabilityPolicy.BEST_EFFORT
    )
