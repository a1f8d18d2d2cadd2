"""Publish pairs to a segmentation node as a RealSense does, and collect its masks.

The player sends nothing before the node is ready: its labels have arrived (so the model is loaded and warmed up), and
both sides have discovered each other's publishers and subscriptions, according to the graph and to the node's
diagnostics. It then waits for each mask until it arrives, or until the diagnostics count the pair as dropped.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from deal_core.errors import DealError
from deal_core.files import replacing
from deal_core.recording.image_encodings import ImageFormatError
from deal_core.structures import CameraIntrinsics, RgbdPair, UInt8Array
from deal_ros.diagnostics.judge import NO_PUBLISHER
from deal_ros.input.conversions import array_to_image, camera_to_info, image_to_mask, stamp_from_ns, stamp_to_ns
from deal_ros.input.qos import camera_qos, mask_qos
from deal_ros.node.transport import shared_memory
from deal_ros.segmentation.labels import subscribe_labels

CAMERA_FRAME = "camera_color_optical_frame"
_SPIN_S = 0.05


class ReplayError(DealError):
    """The segmentation node is not ready or has stopped, or a message on the mask topic is not a valid mask."""


@dataclass(frozen=True)
class ReplayOptions:
    """Topics, rate and timeouts of a replay.

    Args:
        color_topic: topic to publish colour images on, with camera_info next to it.
        depth_topic: topic to publish aligned depth images on, with camera_info next to it.
        mask_topic: mask topic of the node, with the labels next to it.
        rate_hz: rate of pairs; 0 sends the next pair when the mask of the previous pair has arrived.
        restamp: stamp each pair with the current time, as a camera does, and map the stamps of the masks back. Without
            it pairs keep their stamps, and a node drops them as too old unless its clock follows the recording or its
            max_age_ms is 0.
        ready_timeout_s: how long to wait for the node.
        mask_timeout_s: how long to wait for a mask before it counts as lost.
    """

    color_topic: str = "/camera/camera/color/image_raw"
    depth_topic: str = "/camera/camera/aligned_depth_to_color/image_raw"
    mask_topic: str = "/deal_segmentation/mask"
    rate_hz: float = 0.0
    restamp: bool = True
    ready_timeout_s: float = 60.0
    mask_timeout_s: float = 10.0


@dataclass(frozen=True)
class NodeDiagnostics:
    """Last /diagnostics of the node: highest level (0 OK, 1 WARN, 2 ERROR), message by concern, and all values."""

    level: int
    messages: Mapping[str, str]
    values: Mapping[str, str]

    @property
    def is_active(self) -> bool:
        """Whether the node is active and so counts messages."""
        return self.values.get("state") == "active"


@dataclass(frozen=True)
class RecordedPairs:
    """The pairs of a recording.

    Args:
        pairs: number of all pairs.
        skipped: number of pairs that do not fit or cannot be decoded, by cause.
        unpaired: number of images without a partner, by stream and cause.
        findings: what is odd about the recording, one sentence each.
        has_lost_most: whether more than half of the smaller stream is in no sound pair.
    """

    pairs: int
    skipped: Mapping[str, int]
    unpaired: Mapping[str, int]
    findings: tuple[str, ...] = ()
    has_lost_most: bool = False


@dataclass(frozen=True)
class ReplayResult:
    """Result of a replay.

    Args:
        sent: recorded stamps of the pairs that were sent, nanoseconds.
        answered: recorded stamps of the pairs whose mask was received, in order of arrival.
        unexpected: number of masks that belong to no pair of this replay.
        labels: class name by mask id, including background, as the node published them.
        latency_ms: time from sending a pair to receiving its mask, in the order of `answered`.
        diagnostics: diagnostics of the node after the last mask; None if it published none.
        recorded: what the recording has, of which the sound pairs were sent; None without a recording.
    """

    sent: tuple[int, ...]
    answered: tuple[int, ...]
    unexpected: int
    labels: Mapping[int, str]
    latency_ms: tuple[float, ...]
    diagnostics: NodeDiagnostics | None
    recorded: RecordedPairs | None = None

    @property
    def lost(self) -> tuple[int, ...]:
        """Recorded stamps of the pairs without a mask, nanoseconds."""
        return tuple((Counter(self.sent) - Counter(self.answered)).elements())


def replay(
    pairs: Iterable[RgbdPair],
    on_mask: Callable[[int, UInt8Array], None],
    *,
    camera: CameraIntrinsics | None = None,
    options: ReplayOptions | None = None,
    is_alive: Callable[[], bool] = lambda: True,
    domain_id: int | None = None,
    ros_args: list[str] | None = None,
) -> ReplayResult:
    """Send pairs to a running segmentation node and collect its masks, in a ROS context of its own.

    Args:
        pairs: the pairs to send, in this order; the iterable is read while the replay runs.
        on_mask: called with the recorded stamp and the mask of each pair: (stamp_ns, (H, W) uint8 class ids).
        camera: intrinsics to publish with each image; None publishes none.
        options: topics, rate and timeouts.
        is_alive: called while waiting; returns False if the node's process has ended.
        domain_id: ROS domain; None uses the domain of the environment.
        ros_args: ROS arguments such as remappings, as after `--ros-args`.

    Raises:
        ReplayError: the node is not ready in time or stops, or a mask does not match its pair.
    """
    context = Context()
    try:
        with shared_memory():
            rclpy.init(args=["--ros-args", *ros_args] if ros_args else [], context=context, domain_id=domain_id)
            player = _Player(context, options or ReplayOptions(), camera, on_mask, is_alive)
        try:
            return player.play(pairs)
        finally:
            player.close()
    finally:
        rclpy.try_shutdown(context=context)


@dataclass
class _Sent:
    recorded_ns: int
    shape: tuple[int, int]
    frame_id: str
    time_s: float


@dataclass
class _Heard:
    labels: dict[int, str] = field(default_factory=dict)
    answered: list[int] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    unexpected: int = 0
    diagnostics: NodeDiagnostics | None = None


@dataclass(frozen=True)
class _Account:
    """Totals in the node's diagnostics that show whether it has processed all messages that it received."""

    received: Mapping[str, int] = field(default_factory=dict)
    published: int = 0
    pending: int = 0
    in_flight: int = 0

    @classmethod
    def of(cls, found: NodeDiagnostics | None) -> _Account:
        if found is None or not found.is_active:
            return cls()
        values = found.values
        streams = [stream for stream in ("color", "depth") if f"{stream}_topic" in values]
        return cls(
            received={stream: int(values[f"received_{stream}"]) for stream in streams},
            published=int(values["published"]),
            pending=int(values["pending_color"]),
            in_flight=int(values["in_flight"]),
        )


class _Player:
    """Node that sends and receives; single-threaded, its callbacks run inside `_wait_until`."""

    def __init__(
        self,
        context: Context,
        options: ReplayOptions,
        camera: CameraIntrinsics | None,
        on_mask: Callable[[int, UInt8Array], None],
        is_alive: Callable[[], bool],
    ) -> None:
        self._options, self._camera, self._on_mask, self._is_alive = options, camera, on_mask, is_alive
        self._node = Node("deal_replay", context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self._node)
        self._sent: list[int] = []
        self._waiting: dict[int, _Sent] = {}
        self._before = _Account()
        self._heard = _Heard()
        self._last_stamp_ns = 0
        self._segmentation_node = options.mask_topic.strip("/").rpartition("/")[0]
        self._create_endpoints()

    def play(self, pairs: Iterable[RgbdPair]) -> ReplayResult:
        """Wait for the node, send every pair, wait for the last masks, and return the result."""
        self._wait_ready()
        begun = time.monotonic()
        for index, pair in enumerate(pairs):
            if self._options.rate_hz:
                self._spin_to(begun + index / self._options.rate_hz)
                self._send(pair)
            else:
                stamp_ns = self._send(pair)
                self._wait_until(partial(self._is_answered, stamp_ns), self._options.mask_timeout_s)
                self._check_still_there()
        self._wait_until(self._is_settled, self._options.mask_timeout_s)
        self._check_still_there()
        heard = self._heard
        return ReplayResult(
            sent=tuple(self._sent),
            answered=tuple(heard.answered),
            unexpected=heard.unexpected,
            labels=heard.labels,
            latency_ms=tuple(heard.latency_ms),
            diagnostics=heard.diagnostics,
        )

    def close(self) -> None:
        """Destroy the node."""
        self._executor.shutdown()
        self._node.destroy_node()

    def _create_endpoints(self) -> None:
        node, options = self._node, self._options
        qos = camera_qos()
        self._color = node.create_publisher(Image, options.color_topic, qos)
        self._depth = node.create_publisher(Image, options.depth_topic, qos)
        self._infos = [
            node.create_publisher(CameraInfo, topic.rpartition("/")[0] + "/camera_info", qos)
            for topic in (options.color_topic, options.depth_topic)
        ]
        self._masks = node.create_subscription(Image, options.mask_topic, self._take_mask, mask_qos())
        beside = options.mask_topic.rpartition("/")[0]
        subscribe_labels(node, beside, self._take_labels)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnostics, 10)

    def _wait_ready(self) -> None:
        if not self._wait_until(lambda: not self._missing_for_start(), self._options.ready_timeout_s):
            if not self._is_alive():
                raise ReplayError("the segmentation node's process ended before it was ready; its output says why")
            raise ReplayError(
                f"the segmentation node was not ready after {self._options.ready_timeout_s:g} s: "
                f"{'; '.join(self._missing_for_start())}. Check that it runs with these topics and this ROS_DOMAIN_ID"
            )
        self._before = _Account.of(self._heard.diagnostics)

    def _missing_for_start(self) -> list[str]:
        options, heard = self._options, self._heard
        if not heard.labels:
            return [f"no labels next to {options.mask_topic}"]
        if heard.diagnostics is None:
            return [f"no message of {self._segmentation_node} on /diagnostics"]
        if not heard.diagnostics.is_active:
            return [f"{self._segmentation_node} is {heard.diagnostics.values.get('state', 'not active')}"]
        values = heard.diagnostics.values
        missing = []
        for stream, publisher in (("color", self._color), ("depth", self._depth)):
            if f"{stream}_topic" not in values:
                continue  # a node without depth does not subscribe to it
            if not publisher.get_subscription_count():
                missing.append(
                    f"{publisher.topic_name} has no subscriber; the node subscribes to {values[f'{stream}_topic']}"
                )
            elif values[f"{stream}_publisher_offers"] == NO_PUBLISHER:
                missing.append(f"the node has not discovered the publisher of {publisher.topic_name} yet")
        if int(values["mask_subscribers"]) < self._node.count_subscribers(self._masks.topic_name):
            missing.append("the node has not discovered the mask subscription yet")
        return missing

    def _spin_to(self, due_s: float) -> None:
        """Handle messages until a monotonic time, but at least once."""
        self._executor.spin_once(timeout_sec=0)
        self._wait_until(lambda: time.monotonic() >= due_s, due_s - time.monotonic())

    def _is_answered(self, stamp_ns: int) -> bool:
        return stamp_ns not in self._waiting or self._is_settled()

    def _is_settled(self) -> bool:
        """Return whether the node has counted every pair sent, and every mask it published has arrived."""
        now, before = _Account.of(self._heard.diagnostics), self._before
        return (
            bool(now.received)
            and all(count - before.received[stream] >= len(self._sent) for stream, count in now.received.items())
            and now.in_flight == 0
            # Colour images of another publisher may wait for depth that never arrives.
            and now.pending <= before.pending
            and now.published - before.published <= len(self._heard.answered) + self._heard.unexpected
        )

    def _check_still_there(self) -> None:
        if self._waiting and not (self._is_alive() and self._node.count_publishers(self._masks.topic_name)):
            raise ReplayError(
                f"the segmentation node stopped after {len(self._heard.answered)} masks; its output says why"
            )

    def _send(self, pair: RgbdPair) -> int:
        """Publish a pair and return the stamp of its messages."""
        stamp_ns = pair.stamp_ns
        if self._options.restamp:
            # A camera never repeats a stamp, even if the resolution of the clock is too coarse for two pairs.
            stamp_ns = self._last_stamp_ns = max(time.time_ns(), self._last_stamp_ns + 1)
        frame_id = self._camera.frame_id if self._camera else CAMERA_FRAME
        header = Header(stamp=stamp_from_ns(stamp_ns), frame_id=frame_id)
        shape = (pair.color.shape[0], pair.color.shape[1])
        self._sent.append(pair.stamp_ns)
        self._waiting[stamp_ns] = _Sent(pair.stamp_ns, shape, frame_id, time.monotonic())
        if self._camera is not None:
            for publisher in self._infos:
                publisher.publish(camera_to_info(self._camera, header))
        self._color.publish(array_to_image(pair.color, header))
        self._depth.publish(array_to_image(pair.depth_mm, header))
        return stamp_ns

    def _wait_until(self, is_true: Callable[[], bool], timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while not is_true():
            left = end - time.monotonic()
            if left <= 0 or not self._is_alive():
                return is_true()
            self._executor.spin_once(timeout_sec=min(_SPIN_S, left))
        return True

    def _take_mask(self, message: Image) -> None:
        sent = self._waiting.pop(stamp_to_ns(message.header.stamp), None)
        if sent is None:
            self._heard.unexpected += 1
            return
        try:
            mask = image_to_mask(message)
        except (ImageFormatError, ValueError) as error:
            raise ReplayError(f"{self._options.mask_topic}: expected masks: {error}") from None
        if mask.shape != sent.shape or message.header.frame_id != sent.frame_id:
            raise ReplayError(
                f"{self._options.mask_topic}: expected a mask of {sent.shape} in frame '{sent.frame_id}', "
                f"found {mask.shape} in '{message.header.frame_id}'; masks must have the full size (output_scale:=1)"
            )
        self._heard.latency_ms.append((time.monotonic() - sent.time_s) * 1000)
        self._heard.answered.append(sent.recorded_ns)
        self._on_mask(sent.recorded_ns, mask)

    def _take_labels(self, names: dict[int, str]) -> None:
        self._heard.labels = names

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        prefix = f"{self._segmentation_node}: "
        mine = {s.name.removeprefix(prefix): s for s in message.status if s.name.startswith(prefix)}
        if not mine:
            return
        self._heard.diagnostics = NodeDiagnostics(
            level=max(_level(status.level) for status in mine.values()),
            messages={concern: status.message for concern, status in mine.items()},
            values={entry.key: entry.value for status in mine.values() for entry in status.values},
        )


def _level(level: bytes | int) -> int:
    return level[0] if isinstance(level, bytes) else int(level)


def save_masks_to(folder: Path) -> Callable[[int, UInt8Array], None]:
    """Return a function that writes each mask to `<folder>/<stamp_ns>.png`; a file appears only when it is complete."""
    from PIL import Image as PngImage

    folder.mkdir(parents=True, exist_ok=True)

    def save(stamp_ns: int, mask: UInt8Array) -> None:
        with replacing(folder / f"{stamp_ns}.png") as temporary:
            PngImage.fromarray(mask).save(temporary, format="PNG")

    return save
