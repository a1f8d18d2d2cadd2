"""The segmentation node: colour and aligned depth in, masks out, every message accounted for.

The executor's thread takes messages in and pairs them, nothing more; the pipeline's thread segments the newest
frame and publishes. Labels are published once the model is loaded and warm, and before anything is subscribed.
"""

from __future__ import annotations

# Before rclpy: on ARM, torch loaded late finds no room left for its thread-local storage.
import torch  # noqa: F401  # isort: skip

import time
from dataclasses import dataclass
from typing import Any, cast

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.timer import Timer
from sensor_msgs.msg import Image

from deal_core.runtime import Precision, Segmenter
from deal_ros import libraries
from deal_ros.diagnostics import ModelSnapshot, NodeSnapshot, assess, final_counts, to_message
from deal_ros.image_input import ImageInput
from deal_ros.labels import publish_labels
from deal_ros.parameters import LiveParameters
from deal_ros.pipeline import SegmentationPipeline, effective_depth_mode
from deal_ros.qos import mask_qos
from deal_ros.segmentation_parameters import SegmentationParameters
from deal_ros.synchronizer import DepthMode

NODE_NAME = "deal_segmentation"
COLOR_TOPIC = "color/image_raw"
DEPTH_TOPIC = "depth/image_raw"

_FOLLOW_PERIOD_S = 0.5
_EXPIRE_PERIOD_S = 0.02
_LOG_PERIOD_S = 5.0


class SegmentationNode(Node):
    """Parameters, topics, timers; the work is the pipeline's. `configure`, `activate`, `deactivate`, in this order.

    Raises:
        UsageError: a parameter is missing or cannot be used.
    """

    def __init__(self) -> None:
        super().__init__(NODE_NAME)
        self._segmenter: Segmenter | None = None
        self._active: _Active | None = None
        self._parameters = LiveParameters(
            self, SegmentationParameters, is_configured=lambda: self._segmenter is not None
        )
        self._mask_publisher = self.create_publisher(Image, "~/mask", mask_qos())
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._label_publisher: Any = None

    @property
    def parameters(self) -> SegmentationParameters:
        """The parameters as they are now."""
        return self._parameters.current

    def start(self) -> None:
        """Configure and activate.

        Raises:
            ModelFileError: the model file cannot be used.
            UsageError: no model is named, or the device does not exist here.
        """
        self.configure()
        self.activate()

    def is_finished(self) -> bool:
        """Return False: the node works until it is told to stop."""
        return False

    def finish(self) -> int:
        """Deactivate and return 0."""
        self.deactivate()
        return 0

    def configure(self) -> None:
        """Load the model, warm it up, publish its labels.

        Raises:
            ModelFileError: the model file cannot be used.
            UsageError: no model is named, or the device does not exist here.
        """
        wanted = self.parameters
        wanted.check_complete()
        segmenter = Segmenter.load(wanted.model, wanted.device, cast(Precision, wanted.precision))
        segmenter.warm_up(*segmenter.info.input_size, wanted.warmup_iterations)
        self._segmenter = segmenter
        self.get_logger().info(f"{libraries.message_filters()}, {libraries.cv_bridge()}")
        self._label_publisher = publish_labels(
            self, segmenter.classes, segmenter.info.threshold.value, segmenter.model_hash
        )

    def activate(self) -> None:
        """Start the worker and subscribe.

        Raises:
            RuntimeError: no model is loaded yet.
        """
        if self._segmenter is None:
            raise RuntimeError("configure the node before activating it")
        depth_mode = effective_depth_mode(self.parameters.depth_mode, self._segmenter.uses_depth)
        pipeline = SegmentationPipeline(
            self._segmenter,
            self.parameters,
            depth_mode,
            publish=lambda result: self._mask_publisher.publish(result.mask),
            now_ns=lambda: self.get_clock().now().nanoseconds,
            on_error=lambda message: self.get_logger().warning(message, throttle_duration_sec=_LOG_PERIOD_S),
        )
        pipeline.start()
        sync = pipeline.synchronizer
        inputs = [ImageInput(self, "color", COLOR_TOPIC, self.parameters.color_qos, sync.add_color)]
        if depth_mode is not DepthMode.OFF:
            inputs.append(ImageInput(self, "depth", DEPTH_TOPIC, self.parameters.depth_qos, sync.add_depth))
        # Steady time: with simulated time and no /clock, the node must still say what it waits for.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        timers = [
            self.create_timer(_FOLLOW_PERIOD_S, self._follow_publishers, clock=steady),
            self.create_timer(self.parameters.diagnostics_period_s, self.publish_diagnostics, clock=steady),
        ]
        if depth_mode is DepthMode.OPTIONAL:
            timers.append(self.create_timer(_EXPIRE_PERIOD_S, sync.expire, clock=steady))
        self._active = _Active(pipeline, depth_mode, inputs, timers)
        model = self._model_snapshot(depth_mode)
        self.get_logger().info(
            f"ready: {model.path} ({model.sha256[:12]}, {model.classes} classes) on {model.device}, "
            f"{model.precision}; depth {model.depth_mode}, pairing {model.pairing}; "
            f"reading {' and '.join(found.topic for found in inputs)}"
        )

    def deactivate(self) -> None:
        """Unsubscribe, let the running frame finish, say what became of every message; the model stays loaded."""
        if self._active is None:
            return
        for found in self._active.inputs:
            found.close()
        for timer in self._active.timers:
            self.destroy_timer(timer)
        pipeline = self._active.pipeline
        if not pipeline.stop():
            self.get_logger().error("the running frame did not come to an end; leaving it behind")
        self.publish_diagnostics()
        self.get_logger().info(f"stopped: {final_counts(pipeline.synchronizer.counts, pipeline.work)}")
        self._active = None

    def publish_diagnostics(self) -> None:
        """Publish what can be said of the node now."""
        if self._active is None or self._segmenter is None:
            return
        active = self._active
        snapshot = NodeSnapshot(
            time_s=time.monotonic(),
            model=self._model_snapshot(active.depth_mode),
            inputs=tuple(found.snapshot for found in active.inputs),
            input_timeout_s=self.parameters.input_timeout_s,
            max_age_ms=self.parameters.max_age_ms,
            sync=active.pipeline.synchronizer.counts,
            work=active.pipeline.work,
            results=active.pipeline.statistics.summary,
            mask_subscribers=self._mask_publisher.get_subscription_count(),
        )
        statuses = assess(snapshot, active.reported)
        active.reported = snapshot
        name = self.get_fully_qualified_name().lstrip("/")
        self._diagnostics_publisher.publish(to_message(statuses, name, self.get_clock().now().to_msg()))

    def _follow_publishers(self) -> None:
        for found in self._active.inputs if self._active else []:
            found.follow_publisher()

    def _model_snapshot(self, depth_mode: DepthMode) -> ModelSnapshot:
        segmenter, wanted = cast(Segmenter, self._segmenter), self.parameters
        policy = "equal stamps" if wanted.sync_policy == "exact" else f"stamps within {wanted.sync_slop_ms:g} ms"
        return ModelSnapshot(
            path=wanted.model,
            sha256=segmenter.model_hash,
            device=segmenter.device,
            precision=segmenter.precision,
            classes=len(segmenter.classes),
            depth_mode=wanted.depth_mode if depth_mode.value == wanted.depth_mode else "off (the model uses no depth)",
            pairing="none" if depth_mode is DepthMode.OFF else f"by {libraries.message_filters().in_use}, {policy}",
        )


@dataclass
class _Active:
    """What exists only while the node is active."""

    pipeline: SegmentationPipeline
    depth_mode: DepthMode
    inputs: list[ImageInput]
    timers: list[Timer]
    reported: NodeSnapshot | None = None
