"""The temporal filter of class scores, with the camera's motion from TF or odometry."""

from __future__ import annotations

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo

from deal_core.recording.image_messages import is_rectified_topic
from deal_core.runtime.camera_rays import CameraModelError
from deal_core.runtime.temporal_filter import TemporalFilter, View
from deal_core.structures import Float32Array
from deal_ros.input.conversions import info_to_camera, stamp_to_ns
from deal_ros.input.image_input import COLOR_TOPIC, transported
from deal_ros.segmentation.camera_motion import CameraMotion
from deal_ros.segmentation.outputs import FrameInputs
from deal_ros.segmentation.parameters import SegmentationParameters

_LOG_PERIOD_S = 30.0


class SteadyScores:
    """Mix the scores of each frame with the last ones; a frame that lacks something keeps its scores.

    Args:
        node: the node that subscribes and logs.
        parameters: `temporal_weight` and `temporal_frame`.

    Raises:
        UsageError: neither tf2_ros nor nav_msgs is installed.
    """

    def __init__(self, node: Node, parameters: SegmentationParameters) -> None:
        self._node = node
        self._is_rectified = is_rectified_topic(
            node.resolve_topic_name(transported(COLOR_TOPIC, parameters.color_transport)[0])
        )
        self._filter = TemporalFilter(parameters.temporal_weight)
        self._motion = CameraMotion(node, parameters.temporal_frame)

    def __call__(self, inputs: FrameInputs, scores: Float32Array, camera_info: CameraInfo | None) -> Float32Array:
        """Return the filtered scores (K, h, w) of a frame."""
        pose = self._motion.pose(inputs.header)
        if inputs.depth is None or camera_info is None or pose is None:
            known = {"depth": inputs.depth, "camera_info": camera_info, "pose of the camera in TF or odometry": pose}
            self._say(f"no {', no '.join(name for name, value in known.items() if value is None)}")
            return scores
        height, width = inputs.rgb.shape[:2]
        try:
            camera = info_to_camera(camera_info, width, height, is_rectified=self._is_rectified)
            return self._filter(scores, View(inputs.depth, camera, pose, stamp_to_ns(inputs.header.stamp)))
        except CameraModelError as error:
            self._say(str(error))
            return scores

    def reset(self) -> None:
        """Forget the last scores, before those of another model."""
        self._filter.reset()

    def close(self) -> None:
        """Unsubscribe."""
        self._motion.close()

    def _say(self, lack: str) -> None:
        self._node.get_logger().warning(
            f"temporal_weight: frames are not filtered: {lack}", throttle_duration_sec=_LOG_PERIOD_S
        )
