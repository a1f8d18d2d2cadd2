"""Align depth images to colour for cameras whose driver does not: `align_depth:=true`."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo

from deal_core.errors import DealError
from deal_core.recording.depth_values import DepthReading, DepthValues
from deal_core.recording.image_encodings import RawImage
from deal_core.recording.image_messages import camera_of, is_rectified_topic
from deal_core.runtime.camera_rays import CameraModelError
from deal_core.runtime.depth_registration import DepthRegistration
from deal_core.structures import CameraIntrinsics, Float32Array, Float64Array, metres_to_depth
from deal_ros.input.conversions import ImageMessage, image_to_depth_m, stamp_to_ns
from deal_ros.input.image_input import CAMERA_INFO_TOPIC, COLOR_TOPIC, DEPTH_TOPIC
from deal_ros.input.qos import camera_info_qos
from deal_ros.input.static_transforms import StaticTransforms

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # not among the wheels on PyPI
    TFMessage = None
try:
    from realsense2_camera_msgs.msg import Extrinsics
except ImportError:
    Extrinsics = None

DEPTH_INFO_TOPIC, EXTRINSICS_TOPIC = "depth/camera_info", "extrinsics/depth_to_color"
"""Relative topics; realsense-ros publishes both."""
_TRANSFORMS = 100  # messages of /tf_static that are kept for a late subscriber


class DepthAlignmentError(DealError):
    """A depth image that cannot be aligned, because something is not known or does not fit."""

    cause = "unaligned_depth"


class DepthAlignment:
    """Aligns depth images to colour, with both camera_info topics and the transform between the cameras' frames.

    The transform is that of `extrinsics/depth_to_color` (realsense2_camera_msgs/Extrinsics), or else of /tf_static.
    `align` and `lazily` may be called from any thread.

    Args:
        node: the node that subscribes.
        values: how to read the numbers of depth images.
    """

    def __init__(self, node: Node, values: DepthValues) -> None:
        self._node, self._values = node, values
        self._lock = threading.Lock()
        self._cameras: dict[str, CameraIntrinsics] = {}
        self._transforms = StaticTransforms()
        self._extrinsics: Float64Array | None = None
        self._made: tuple[object, DepthRegistration] | None = None
        latched = QoSProfile(depth=_TRANSFORMS, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        wanted: list[tuple[Any, str, Any, QoSProfile]] = [
            (CameraInfo, CAMERA_INFO_TOPIC, self._take_color_info, camera_info_qos()),
            (CameraInfo, DEPTH_INFO_TOPIC, self._take_depth_info, camera_info_qos()),
            (TFMessage, "/tf_static", self._take_transforms, latched),
            (Extrinsics, EXTRINSICS_TOPIC, self._take_extrinsics, latched),
        ]
        self._subscriptions = [node.create_subscription(*one) for one in wanted if one[0] is not None]
        # The cameras' images may be rectified, and then their camera_info has another part for them.
        self._is_rectified = {
            stream: is_rectified_topic(node.resolve_topic_name(topic))
            for stream, topic in (("color", COLOR_TOPIC), ("depth", DEPTH_TOPIC))
        }

    def close(self) -> None:
        """End the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def align(self, message: ImageMessage) -> DepthReading:
        """Return the depth image as the colour camera sees it, in metres.

        Raises:
            ImageFormatError: the image cannot be read.
            DepthAlignmentError: a camera_info or the transform has not arrived or does not fit.
        """
        return DepthReading(self._register(message, self._registration(message)), "32FC1", DepthValues())

    def lazily(self, message: ImageMessage) -> RawImage:
        """Return the aligned depth image in millimetres; the work is done when its data are first used.

        Raises:
            DepthAlignmentError: a camera_info or the transform has not arrived or does not fit.
        """
        registration = self._registration(message)
        return _AlignedImage(self, message, registration, self._cameras["color"])

    def _register(self, message: ImageMessage, registration: DepthRegistration) -> Float32Array:
        try:
            return registration(image_to_depth_m(message, self._values)[0])
        except CameraModelError as error:
            raise DepthAlignmentError(f"{self._topic(DEPTH_INFO_TOPIC)}: {error}") from None

    def _registration(self, message: ImageMessage) -> DepthRegistration:
        """Return what aligns this image; it is made anew if a camera or the transform has changed."""
        with self._lock:
            for stream, topic in (("color", CAMERA_INFO_TOPIC), ("depth", DEPTH_INFO_TOPIC)):
                if stream not in self._cameras:
                    raise DepthAlignmentError(f"align_depth: no usable camera_info on {self._topic(topic)}")
            color, depth = self._cameras["color"], self._cameras["depth"]
            transform = self._transform(message.header.frame_id, color.frame_id)
            key = (color, depth, transform.tobytes())
            if self._made is None or self._made[0] != key:
                try:
                    self._made = key, DepthRegistration(depth, color, transform)
                except CameraModelError as error:
                    raise DepthAlignmentError(f"align_depth: camera_info: {error}") from None
            return self._made[1]

    def _transform(self, depth_frame: str, color_frame: str) -> Float64Array:
        if self._extrinsics is not None:
            return self._extrinsics
        found = self._transforms.between(depth_frame, color_frame)
        if found is not None:
            return found
        lacks = [name for name, kind in (("tf2_msgs", TFMessage), ("realsense2_camera_msgs", Extrinsics)) if not kind]
        hint = f"; not installed here: {', '.join(lacks)}" if lacks else ""
        raise DepthAlignmentError(
            f"align_depth: no transform from '{depth_frame}' to '{color_frame}' on /tf_static or "
            f"{self._topic(EXTRINSICS_TOPIC)}{hint}"
        )

    def _topic(self, name: str) -> str:
        return str(self._node.resolve_topic_name(name))

    def _take_color_info(self, message: CameraInfo) -> None:
        self._take_info("color", message)

    def _take_depth_info(self, message: CameraInfo) -> None:
        self._take_info("depth", message)

    def _take_info(self, stream: str, message: CameraInfo) -> None:
        camera = camera_of(message, is_rectified=self._is_rectified[stream])
        if camera is not None:
            with self._lock:
                self._cameras[stream] = camera

    def _take_transforms(self, message: Any) -> None:
        with self._lock:
            self._transforms.add(message.transforms)

    def _take_extrinsics(self, message: Any) -> None:
        matrix = np.eye(4)
        matrix[:3, :3] = np.array(message.rotation, float).reshape(3, 3).T  # column by column
        matrix[:3, 3] = message.translation
        if np.isfinite(matrix).all() and abs(np.linalg.det(matrix) - 1) < 1e-3:
            with self._lock:
                self._extrinsics = matrix


class _AlignedImage(RawImage):
    """A depth image that is aligned when its data are first used."""

    def __init__(
        self, alignment: DepthAlignment, message: ImageMessage, registration: DepthRegistration, color: CameraIntrinsics
    ) -> None:
        fields = {
            "stamp_ns": stamp_to_ns(message.header.stamp),
            "frame_id": color.frame_id,
            "height": color.height,
            "width": color.width,
            "encoding": "16UC1",
            "step": 2 * color.width,
            "is_bigendian": False,
            "_work": lambda: metres_to_depth(alignment._register(message, registration)),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @cached_property
    def data(self) -> memoryview:
        """One-dimensional bytes."""
        return self._work().data.cast("B")  # type: ignore[attr-defined]
