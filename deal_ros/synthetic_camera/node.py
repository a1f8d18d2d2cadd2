"""The synthetic camera: publishes rendered images on the topics of realsense-ros and simulates faults.

A thread renders some views and then publishes them at an absolute schedule. The executor's thread handles parameters;
only that thread creates and destroys the image publishers.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from std_msgs.msg import String

from deal_core.structures import CameraIntrinsics, RgbdPair
from deal_ros.input.qos import labels_qos
from deal_ros.node.parameters import LiveParameters
from deal_ros.synthetic_camera.outlet import CameraOutlet
from deal_ros.synthetic_camera.parameters import SyntheticCameraParameters
from deal_ros.synthetic_camera.plan import (
    Fate,
    FramePlan,
    ImagePlan,
    Tick,
    color_pixels,
    depth_pixels,
    next_tick,
    plan_frame,
    view_at,
)

NODE_NAME, NAMESPACE = "camera", "camera"
COLOR_TOPIC, DEPTH_TOPIC = "~/color/image_raw", "~/aligned_depth_to_color/image_raw"
SENT_TOPIC = "~/sent"

_REPORT_PERIOD_S = 1.0


@dataclass(frozen=True, eq=False)
class CameraViews:
    """Rendered views of the camera.

    Args:
        pairs: one pair for each view; their stamps are not used.
        camera: intrinsics of all views.
    """

    pairs: tuple[RgbdPair, ...]
    camera: CameraIntrinsics


@dataclass
class SentCounts:
    """Counts of images by outcome. For each stream, all outcomes add up to the ticks; for depth, add those waiting.

    Args:
        ticks: number of ticks with a planned frame.
        skipped: number of ticks missed because the machine was busy.
        color: colour images by outcome.
        depth: depth images by outcome.
        waiting: late depth images that are not yet due.
        pairs: frames whose images were both sent, with equal stamps.
    """

    ticks: int = 0
    skipped: int = 0
    color: Counter[Fate] = field(default_factory=Counter)
    depth: Counter[Fate] = field(default_factory=Counter)
    waiting: int = 0
    pairs: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        streams = {"color": self.color, "depth": self.depth}
        by_fate = {name: {fate.value: counts[fate] for fate in Fate} for name, counts in streams.items()}
        return {"ticks": self.ticks, "skipped": self.skipped, **by_fate, "waiting": self.waiting, "pairs": self.pairs}


class SyntheticCameraNode(Node):
    """Node of the synthetic camera.

    Raises:
        UsageError: a parameter is invalid.
    """

    def __init__(self) -> None:
        super().__init__(NODE_NAME, namespace=NAMESPACE)
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._stopping = threading.Event()
        self._changed = threading.Event()
        self._error: Exception | None = None
        self._live = LiveParameters(
            self,
            SyntheticCameraParameters,
            is_configured=self._thread.is_alive,
            on_change=self._follow_parameters,
        )
        self._color = CameraOutlet(self, COLOR_TOPIC, lambda plan, pair: color_pixels(plan, pair.color))
        self._depth = CameraOutlet(self, DEPTH_TOPIC, lambda plan, pair: depth_pixels(plan, pair.depth_mm))
        self._report_publisher = self.create_publisher(String, SENT_TOPIC, labels_qos())
        self._counts = SentCounts()
        self._late: list[_LateDepth] = []

    def start(self) -> None:
        """Create the publishers and start rendering; the first image follows when all views are rendered."""
        self._follow_parameters(self._live.current)
        self._thread.start()

    def is_finished(self) -> bool:
        """Return whether the camera's thread has failed."""
        return self._error is not None

    def finish(self) -> int:
        """Stop sending and return 0.

        Raises:
            Exception: the exception that ended the camera's thread.
        """
        self._stopping.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        self._report()
        self.get_logger().info(f"stopped: {json.dumps(self._counts.to_json())}")
        return 0

    def _follow_parameters(self, wanted: SyntheticCameraParameters) -> None:
        reliability = None if wanted.unplugged else ReliabilityPolicy[wanted.qos.upper()]
        for outlet in (self._color, self._depth):
            outlet.offer(reliability)
        self._changed.set()

    # All methods below run in the camera's thread, except for the last report.

    def _run(self) -> None:
        try:
            self._send_all(self._render())
        except Exception as error:  # `finish` raises it in the main thread
            self._error = error

    def _render(self) -> CameraViews:
        from deal_core.synthetic.recording import SyntheticConfig, render_scenes

        wanted, begun = self._live.current, time.monotonic()
        width, height = wanted.size
        config = SyntheticConfig(seed=wanted.seed, scenes=1, frames_per_scene=wanted.views, width=width, height=height)
        self.get_logger().info(f"rendering {wanted.views} views of {width}x{height}; each may take several seconds")
        pairs = []
        for frame in render_scenes(config):
            pairs.append(frame.pair)
            if self._stopping.is_set():
                break
        self.get_logger().info(
            f"rendered in {time.monotonic() - begun:.1f} s; sending {width}x{height} at "
            f"{wanted.rate_hz} Hz on {self.resolve_topic_name(COLOR_TOPIC)} and {self.resolve_topic_name(DEPTH_TOPIC)}"
        )
        frame_id = f"{self.get_name()}_color_optical_frame"  # named after the camera, as by realsense-ros
        return CameraViews(tuple(pairs), dataclasses.replace(config.camera, frame_id=frame_id))

    def _send_all(self, views: CameraViews) -> None:
        rate_hz = self._live.current.rate_hz
        begun, reported, last, plan = time.monotonic(), -_REPORT_PERIOD_S, -1, None
        while True:
            number = next_tick(last, time.monotonic() - begun, rate_hz)
            due = begun + number / rate_hz
            if self._late and self._late[0].due < due:
                if self._stopping.wait(self._late[0].due - time.monotonic()):
                    return
                self._send_due_depth(views)
                continue
            if self._stopping.wait(due - time.monotonic()):
                return
            self._counts.skipped += number - last - 1
            last, plan = number, self._send_frame(number, plan, views)
            if self._changed.is_set() or time.monotonic() - reported > _REPORT_PERIOD_S:
                self._changed.clear()
                self._report()
                reported = time.monotonic()

    def _send_frame(self, number: int, before: FramePlan | None, views: CameraViews) -> FramePlan:
        wanted, now_s = self._live.current, time.monotonic()
        ticks_per_view = wanted.rate_hz / wanted.view_rate_hz if wanted.view_rate_hz else 1.0
        view = view_at(number, len(views.pairs), ticks_per_view)
        tick = Tick(number, self.get_clock().now().nanoseconds, view, before)
        plan = plan_frame(tick, views.camera, wanted)
        color_fate = self._send(self._color, plan.color, plan.view, views)
        self._counts.ticks += 1
        self._counts.color[color_fate] += 1
        if plan.depth.fate is Fate.SENT:
            is_pair = color_fate is Fate.SENT and plan.color.stamp_ns == plan.depth.stamp_ns
            heapq.heappush(self._late, _LateDepth(now_s + plan.depth.delay_s, number, plan.view, plan.depth, is_pair))
        else:
            self._counts.depth[plan.depth.fate] += 1
        self._send_due_depth(views)
        return plan

    def _send_due_depth(self, views: CameraViews) -> None:
        while self._late and self._late[0].due <= time.monotonic():
            late = heapq.heappop(self._late)
            fate = self._send(self._depth, late.plan, late.view, views)
            self._counts.depth[fate] += 1
            self._counts.pairs += late.is_pair and fate is Fate.SENT
        self._counts.waiting = len(self._late)

    def _send(self, outlet: CameraOutlet, plan: ImagePlan, view: int, views: CameraViews) -> Fate:
        if plan.fate is not Fate.SENT:
            return plan.fate
        return Fate.SENT if outlet.send(plan, view, views.pairs[view], views.camera) else Fate.WITHHELD

    def _report(self) -> None:
        """Publish the counts and the current faults."""
        wanted = self._live.current
        faults = {
            entry.name: getattr(wanted, entry.name)
            for entry in dataclasses.fields(wanted)
            if entry.metadata["live"] and getattr(wanted, entry.name) != entry.default
        }
        self._report_publisher.publish(String(data=json.dumps({**self._counts.to_json(), "changed": faults})))


@dataclass(frozen=True, order=True)
class _LateDepth:
    """A depth image that is not yet due, ordered by its due time.

    Args:
        due: monotonic due time, seconds.
        number: number of its tick.
        view: number of its view.
        plan: plan of the image.
        is_pair: whether its colour image was sent with the same stamp.
    """

    due: float
    number: int
    view: int = field(compare=False)
    plan: ImagePlan = field(compare=False)
    is_pair: bool = field(compare=False)
