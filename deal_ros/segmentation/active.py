"""The part of the segmentation node that exists while it is active: subscriptions, pipeline and their timers."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, Image

from deal_core.runtime.segmenter import Segmenter
from deal_core.structures import Float32Array
from deal_ros.diagnostics.snapshots import WorkSnapshot
from deal_ros.input.conversions import ImageMessage
from deal_ros.input.image_input import (
    CAMERA_INFO_TOPIC,
    COLOR_TOPIC,
    DEPTH_TOPIC,
    FOLLOW_PERIOD_S,
    ImageInput,
    transported,
)
from deal_ros.input.qos import camera_info_qos
from deal_ros.input.synchronizer import DepthMode
from deal_ros.segmentation.one_frame import SegmentedFrame
from deal_ros.segmentation.outputs import FrameInputs, Outputs
from deal_ros.segmentation.parameters import SegmentationParameters
from deal_ros.segmentation.pipeline import SegmentationPipeline
from deal_ros.segmentation.steady_scores import SteadyScores

_EXPIRE_SHARE = 0.2
"""Period of the expiry timer as a fraction of `sync_timeout_ms`: how much longer than that a colour image may wait."""
_EXPIRE_PERIODS_S = (0.005, 0.1)
"""Shortest and longest period of the expiry timer."""
_LOG_PERIOD_S = 5.0


class SegmentationSession:
    """Subscribe and segment from construction to `close`.

    The session subscribes to depth and camera_info only while the model or an output needs them. Not thread-safe: all
    calls must come from the executor's thread.

    Args:
        node: the node that subscribes.
        segmenter: segments an image.
        parameters: parameters of the node.
        outputs: makes the message of the mask, and publishes all other outputs.
        publish: called with the mask of each frame, in the worker's thread; publishes it.
    """

    def __init__(
        self,
        node: Node,
        segmenter: Segmenter,
        parameters: SegmentationParameters,
        outputs: Outputs,
        publish: Callable[[Image], None],
    ) -> None:
        self._node, self._segmenter, self._parameters, self._outputs = node, segmenter, parameters, outputs
        self._camera_info: CameraInfo | None = None
        self._steady = SteadyScores(node, parameters) if parameters.temporal_weight > 0 else None
        self._publish, self._of_frame = publish, parameters
        self.pipeline = SegmentationPipeline(
            segmenter,
            parameters,
            self._wanted_depth(),
            publish=self._publish_mask,
            publish_more=self._publish_more,
            now_ns=lambda: node.get_clock().now().nanoseconds,
            on_error=lambda message: node.get_logger().warning(message, throttle_duration_sec=_LOG_PERIOD_S),
            refine=self._refine if self._steady else None,
        )
        self.pipeline.start()
        # Steady time: the timeout of colour images must not depend on simulated time.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._expiry = node.create_timer(_expire_period_s(parameters), self._expire, clock=steady)
        self._expiry.cancel()
        self._color = _color_input(node, parameters, self._take_color)
        self._depth: ImageInput | None = None
        self._camera_info_subscription: Subscription | None = None
        self._follow()
        self._following = node.create_timer(FOLLOW_PERIOD_S, self._follow, clock=steady)

    @property
    def inputs(self) -> list[ImageInput]:
        """The image inputs in use: colour, and depth if frames have depth."""
        is_pairing = self._depth is not None and self.pipeline.depth_mode is not DepthMode.OFF
        return [self._color, self._depth] if self._depth and is_pairing else [self._color]

    def close(self) -> bool:
        """Unsubscribe and wait for the running frame; return False if it does not finish in time."""
        self._unsubscribe()
        for timer in (self._expiry, self._following):
            self._node.destroy_timer(timer)
        has_stopped = self.pipeline.stop()
        if self._steady is not None:
            self._steady.close()
        return has_stopped

    def enable(self, is_enabled: bool) -> None:
        """Subscribe and segment, or unsubscribe and drop all frames except the running one."""
        self.pipeline.enable(is_enabled)
        if is_enabled:
            self._color.open()
            self._follow()
        else:
            self._unsubscribe()

    def use(self, segmenter: Segmenter, on_use: Callable[[], None]) -> None:
        """Replace the segmenter; see `SegmentationPipeline.use`."""
        self._segmenter = segmenter

        def begin() -> None:
            if self._steady is not None:
                self._steady.reset()
            on_use()

        self.pipeline.use(segmenter, begin)

    def adapt(self, parameters: SegmentationParameters) -> None:
        """Use these parameters from now on."""
        self._parameters = parameters
        self.pipeline.adapt(parameters)
        self._expiry.timer_period_ns = round(_expire_period_s(parameters) * 1e9)

    def snapshot(self, mask_subscribers: int) -> WorkSnapshot:
        """Return the current state for the diagnostics."""
        return WorkSnapshot(
            inputs=tuple(found.snapshot for found in self.inputs),
            sync=self.pipeline.sync,
            work=self.pipeline.work,
            results=self.pipeline.statistics.summary,
            mask_subscribers=mask_subscribers,
            depth_mode=self.pipeline.depth_mode.value,
            missed=self._outputs.missed,
            missing=self._outputs.missing,
            model_lacks_depth=self._segmenter.uses_depth and self.pipeline.depth_mode is DepthMode.OFF,
        )

    def _wanted_depth(self) -> DepthMode:
        is_used = self._segmenter.uses_depth or self._outputs.needs_depth or self._steady is not None
        return effective_depth_mode(self._parameters.depth_mode, is_used)

    def _refine(self, inputs: FrameInputs, scores: Float32Array) -> Float32Array:
        assert self._steady is not None  # otherwise the pipeline refines nothing
        return self._steady(inputs, scores, self._camera_info)

    def _publish_mask(self, result: SegmentedFrame) -> None:
        # The executor's thread may change the parameters; all outputs of a frame must have one size.
        self._of_frame = self._parameters
        self._publish(self._outputs.mask(result.mask, result.inputs, result.segmentation, self._of_frame))

    def _publish_more(self, result: SegmentedFrame) -> None:
        self._outputs.publish(result.inputs, result.segmentation, self._camera_info, self._of_frame)

    def _take_depth(self, message: ImageMessage) -> None:
        self.pipeline.notice_restart("depth", message)
        self.pipeline.synchronizer.add_depth(message)

    def _take_camera_info(self, message: CameraInfo) -> None:
        self._camera_info = message

    def _take_color(self, message: ImageMessage) -> None:
        self.pipeline.notice_restart("color", message)
        self.pipeline.synchronizer.add_color(message)
        # The timer runs only while an image waits: in an idle node it would use more CPU than everything else.
        if self.pipeline.depth_mode is DepthMode.OPTIONAL and self._expiry.is_canceled():
            self._expiry.reset()

    def _expire(self) -> None:
        self.pipeline.synchronizer.expire()
        if not self.pipeline.synchronizer.counts.pending_color:
            self._expiry.cancel()

    def _follow(self) -> None:
        """Subscribe to the streams that are needed now, with the QoS that their publishers offer."""
        if not self.pipeline.is_enabled:
            return
        self.pipeline.pair_by(self._wanted_depth())
        self._follow_depth(self.pipeline.depth_mode is not DepthMode.OFF)
        self._follow_camera_info(self._outputs.needs_camera_info or self._steady is not None)
        for found in self.inputs:
            found.follow_publisher()

    def _follow_depth(self, is_needed: bool) -> None:
        if not is_needed:
            if self._depth is not None:
                self._depth.close()
        elif self._depth is None:
            topic, kind = transported(DEPTH_TOPIC, self._parameters.depth_transport)
            self._depth = ImageInput(self._node, "depth", topic, self._parameters.depth_qos, self._take_depth, kind)
        else:
            self._depth.open()

    def _follow_camera_info(self, is_needed: bool) -> None:
        if is_needed and self._camera_info_subscription is None:
            self._camera_info_subscription = self._node.create_subscription(
                CameraInfo, CAMERA_INFO_TOPIC, self._take_camera_info, camera_info_qos()
            )
        elif not is_needed and self._camera_info_subscription is not None:
            self._node.destroy_subscription(self._camera_info_subscription)
            self._camera_info_subscription = self._camera_info = None

    def _unsubscribe(self) -> None:
        self._color.close()
        self._follow_depth(False)
        self._follow_camera_info(False)


def _color_input(
    node: Node, parameters: SegmentationParameters, on_image: Callable[[ImageMessage], None]
) -> ImageInput:
    topic, kind = transported(COLOR_TOPIC, parameters.color_transport)
    return ImageInput(node, "color", topic, parameters.color_qos, on_image, kind)


def _expire_period_s(parameters: SegmentationParameters) -> float:
    shortest, longest = _EXPIRE_PERIODS_S
    return min(max(_EXPIRE_SHARE * parameters.sync_timeout_ms / 1000, shortest), longest)


def effective_depth_mode(wanted: str, is_used: bool) -> DepthMode:
    """Return the depth mode to use: optional depth is off if neither the model nor an output uses it."""
    mode = DepthMode(wanted)
    return DepthMode.OFF if mode is DepthMode.OPTIONAL and not is_used else mode
