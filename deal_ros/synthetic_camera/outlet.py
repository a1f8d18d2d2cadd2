"""One image stream of the synthetic camera: image and camera_info, created once for each view and sent many times."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy.typing as npt
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from deal_core.structures import CameraIntrinsics, RgbdPair
from deal_ros.input.conversions import array_to_image, camera_to_info, stamp_from_ns
from deal_ros.input.qos import camera_qos
from deal_ros.synthetic_camera.plan import ImagePlan, scaled_camera


class CameraOutlet:
    """Publishers of a stream. Call `offer` from the executor's thread, and `send` from one other thread.

    Args:
        node: the node that publishes.
        topic: topic of the images; camera_info is next to it.
        pixels: returns the pixels of an image for its plan and view.
    """

    def __init__(self, node: Node, topic: str, pixels: Callable[[ImagePlan, RgbdPair], npt.NDArray[Any]]) -> None:
        self._node, self._pixels = node, pixels
        self._topics = {Image: topic, CameraInfo: topic.rpartition("/")[0] + "/camera_info"}
        self._lock = threading.Lock()
        self._publishers: list[Publisher] = []
        self._offered: ReliabilityPolicy | None = None
        self._look: ImagePlan | None = None
        self._messages: dict[int, tuple[Image, CameraInfo]] = {}

    def offer(self, reliability: ReliabilityPolicy | None) -> None:
        """Create publishers with this reliability, or none; existing publishers are kept if they match."""
        if reliability == self._offered:
            return
        with self._lock:
            for publisher in self._publishers:
                self._node.destroy_publisher(publisher)
            self._publishers = []
            if reliability is not None:
                qos = camera_qos(reliability)
                self._publishers = [self._node.create_publisher(kind, name, qos) for kind, name in self._topics.items()]
            self._offered = reliability

    def send(self, plan: ImagePlan, number: int, pair: RgbdPair, camera: CameraIntrinsics) -> bool:
        """Publish an image of a view; return False if there are no publishers.

        Args:
            plan: plan of the image.
            number: number of the view; the key of its cached messages.
            pair: the view.
            camera: intrinsics of the view.
        """
        with self._lock:
            if not self._publishers:
                return False
            # `publish` serialises at once, so the same messages can be sent again with another stamp.
            for publisher, message in zip(self._publishers, self._filled(plan, number, pair, camera), strict=True):
                message.header.stamp = stamp_from_ns(plan.stamp_ns)
                publisher.publish(message)
            return True

    def _filled(
        self, plan: ImagePlan, number: int, pair: RgbdPair, camera: CameraIntrinsics
    ) -> tuple[Image, CameraInfo]:
        look = replace(plan, stamp_ns=0, delay_s=0.0)
        if look != self._look:
            self._look, self._messages = look, {}
        if number not in self._messages:
            header = Header(frame_id=plan.frame_id)
            image = array_to_image(self._pixels(plan, pair), header, plan.encoding)
            info = camera_to_info(scaled_camera(camera, plan), Header(frame_id=plan.frame_id))
            self._messages[number] = _with_defect(image, plan.defect), info
        return self._messages[number]


def _with_defect(image: Image, defect: str) -> Image:
    if defect == "step":
        image.step -= 1
    elif defect == "truncated":
        del image.data[len(image.data) // 2 :]
    return image
