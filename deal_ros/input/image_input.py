"""Subscription to an image topic that adapts its QoS to the publisher and counts what it receives."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import CompressedImage, Image

from deal_ros.input.conversions import CPU, ImageMessage, memory_of, stamp_to_ns
from deal_ros.input.nearest_topics import nearest_topics, published_image_topics
from deal_ros.input.qos import (
    INPUT_DEPTH,
    choose_reliability,
    image_qos,
    is_incompatible,
    loses_large_best_effort,
    reliability_name,
)
from deal_ros.input.stamps import StampCounts, StampWatch

COLOR_TOPIC, DEPTH_TOPIC, CAMERA_INFO_TOPIC = "color/image_raw", "depth/image_raw", "color/camera_info"
"""Relative topic names of a camera; launch files remap them."""
_UNKNOWN_LOSS = 2**31 - 1  # Fast DDS reports it beside the events of the lost messages
FOLLOW_PERIOD_S = 0.5
"""Period at which a node checks its publishers."""


def transported(topic: str, transport: str) -> tuple[str, type[ImageMessage]]:
    """Return the topic and message type of an image topic with an image transport, as in "raw" or "compressed"."""
    return (topic, Image) if transport == "raw" else (f"{topic}/{transport}", CompressedImage)


class ImageInput:
    """Subscribe to an image topic. Not thread-safe: all calls must come from the executor's thread.

    Args:
        node: the node that subscribes.
        stream: "color" or "depth", for diagnostics.
        topic: relative topic name; it can be remapped.
        wanted: reliability to request: "auto", "reliable" or "best_effort".
        on_image: called with every message.
        message_type: `Image`, or `CompressedImage` for a topic such as `color/image_raw/compressed`.
        depth: queue depth of the subscription.
    """

    def __init__(
        self,
        node: Node,
        stream: str,
        topic: str,
        wanted: str,
        on_image: Callable[[ImageMessage], None],
        message_type: type[ImageMessage] = Image,
        depth: int = INPUT_DEPTH,
    ) -> None:
        self._depth = depth
        self._message_type = message_type
        self._node, self._stream, self._wanted, self._on_image = node, stream, wanted, on_image
        self.topic = node.resolve_topic_name(topic)
        self._relative = topic
        self._received = self._changes = self._lost = 0
        self._memory = CPU
        self._last: tuple[str, int, int, int] = ("", 0, 0, 0)
        self._last_change = ""
        self._stamps = StampWatch()
        self._heard = time.monotonic()
        self._had_publisher = False
        self._reliability = choose_reliability(wanted, self._offers())
        self._subscription: Subscription | None = self._subscribe()

    def follow_publisher(self) -> None:
        """Subscribe again if the reliability is `auto` and the known publishers offer another one."""
        if self._subscription is None:
            return
        chosen = choose_reliability(self._wanted, self._offers(), self._reliability)
        if chosen == self._reliability:
            return
        self._node.get_logger().info(
            f"{self.topic}: subscribing as {reliability_name(chosen)}, as the publisher offers"
        )
        self.close()
        self._reliability = chosen
        self._subscription = self._subscribe()

    def close(self) -> None:
        """End the subscription."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def open(self) -> None:
        """Subscribe again after `close`; the time without images starts at zero."""
        if self._subscription is None:
            self._heard = time.monotonic()
            self._subscription = self._subscribe()

    @property
    def snapshot(self) -> InputSnapshot:
        """The current state of this input."""
        offers = self._offers()
        encoding, width, height, size_bytes = self._last
        return InputSnapshot(
            stream=self._stream,
            is_subscribed=self._subscription is not None,
            topic=self.topic,
            received=self._received,
            silent_s=time.monotonic() - self._heard,
            encoding=encoding,
            width=width,
            height=height,
            size_bytes=size_bytes,
            offers=tuple(reliability_name(offer) for offer in offers),
            requests=reliability_name(self._reliability),
            incompatible=is_incompatible(self._reliability, offers),
            nearest=() if offers else self._nearest(),
            publisher_left=self._had_publisher and not offers,
            changes=self._changes,
            last_change=self._last_change,
            stamps=self._stamps.counts,
            best_effort_is_lossy=loses_large_best_effort(get_rmw_implementation_identifier()),
            lost=self._lost,
            memory=self._memory,
            rmw=get_rmw_implementation_identifier(),
        )

    def _subscribe(self) -> Subscription:
        events = subscription_events()
        qos = image_qos(self._reliability, self._depth)
        try:
            callbacks = events.SubscriptionEventCallbacks(message_lost=self._count_lost)
            return self._node.create_subscription(
                self._message_type, self._relative, self._take, qos, event_callbacks=callbacks
            )
        except events.UnsupportedEventTypeError:  # not every middleware tells of lost messages
            return self._node.create_subscription(self._message_type, self._relative, self._take, qos)

    def _count_lost(self, event: Any) -> None:
        if 0 < event.total_count_change < _UNKNOWN_LOSS:
            self._lost += event.total_count_change

    def _take(self, message: ImageMessage) -> None:
        self._received += 1
        if (memory := memory_of(message)) != self._memory:
            self._memory = memory
            if memory != CPU:
                self._node.get_logger().info(
                    f"{self.topic}: images are in '{memory}' memory; each is copied to main memory before it is used"
                )
        self._heard = time.monotonic()
        self._stamps.see(stamp_to_ns(message.header.stamp), self._node.get_clock().now().nanoseconds)
        if isinstance(message, CompressedImage):
            self._describe((message.format, 0, 0, len(message.data)))
        else:
            self._describe((message.encoding, message.width, message.height, len(message.data)))
        self._on_image(message)

    def _describe(self, form: tuple[str, int, int, int]) -> None:
        before, self._last = self._last, form
        if before[0] and before[:3] != form[:3]:
            self._changes += 1
            self._last_change = " to ".join(
                f"{width}x{height} {encoding}" if width else encoding for encoding, width, height, _ in (before, form)
            )

    def _nearest(self) -> tuple[str, ...]:
        return nearest_topics(self.topic, published_image_topics(self._node, self._message_type))

    def _offers(self) -> list[ReliabilityPolicy]:
        offers = [info.qos_profile.reliability for info in self._node.get_publishers_info_by_topic(self.topic)]
        self._had_publisher = self._had_publisher or bool(offers)
        return offers


@dataclass(frozen=True)
class InputSnapshot:
    """State of one input topic.

    Args:
        stream: "color" or "depth".
        topic: full topic name.
        received: number of images received.
        silent_s: seconds since the last image, or since the subscription.
        encoding: encoding of the last image, or format of a compressed image; empty before the first image.
        width: width of the last image, pixels; 0 for a compressed image.
        height: height of the last image, pixels; 0 for a compressed image.
        size_bytes: size of the last image.
        offers: reliability that each known publisher offers.
        requests: reliability that the subscription requests.
        nearest: if there is no publisher, the names most like this topic on which somebody publishes images.
        incompatible: whether the QoS of every publisher is incompatible with the request.
        best_effort_is_lossy: whether the transport of this process loses best-effort images over 0.5 MB.
        is_subscribed: False while `~/enable` has disabled the node.
        publisher_left: whether the topic had a publisher and has none now.
        changes: number of changes of encoding or size.
        last_change: the last change, for example "640x480 rgb8 to 640x480 bgr8".
        stamps: counts of invalid header stamps.
        lost: number of messages that the middleware lost on the way, as far as it tells.
        memory: memory of the last image, "cpu" or the name of a buffer backend such as "cuda".
        rmw: middleware of this process.
    """

    stream: str
    topic: str
    received: int
    silent_s: float
    encoding: str = ""
    width: int = 0
    height: int = 0
    size_bytes: int = 0
    offers: tuple[str, ...] = ()
    requests: str = "reliable"
    nearest: tuple[str, ...] = ()
    incompatible: bool = False
    best_effort_is_lossy: bool = False
    is_subscribed: bool = True
    publisher_left: bool = False
    changes: int = 0
    last_change: str = ""
    stamps: StampCounts = field(default_factory=StampCounts)
    lost: int = 0
    memory: str = CPU
    rmw: str = "rmw_fastrtps_cpp"


def subscription_events() -> Any:
    """Return the module of rclpy with the events of a subscription."""
    try:
        from rclpy import event_handler
    except ImportError:  # Humble
        from rclpy import qos_event as event_handler
    return event_handler
