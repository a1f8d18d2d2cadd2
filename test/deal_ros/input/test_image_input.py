"""One subscription, over real DDS, for either kind of image."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CompressedImage, Image

from deal_ros.input.image_input import ImageInput


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        (Image, {"height": 2, "width": 3, "step": 3, "encoding": "mono8"}, ("mono8", 3, 2, 6)),
        (CompressedImage, {"format": "jpeg"}, ("jpeg", 0, 0, 6)),
    ],
)
def test_raw_and_compressed_images_arrive(
    new_domain: Callable[[], int], kind: Any, fields: dict[str, Any], expected: tuple[str, int, int, int]
) -> None:
    context = Context()
    rclpy.init(args=[], context=context, domain_id=new_domain())
    node = rclpy.create_node("listener", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    received: list[Any] = []
    try:
        found = ImageInput(node, "color", "color/image", "auto", received.append, kind)
        publisher = node.create_publisher(kind, "color/image", 10)
        message = kind(**fields)
        message.data.frombytes(bytes(6))
        end = time.monotonic() + 60
        while not received and time.monotonic() < end:
            publisher.publish(message)
            executor.spin_once(timeout_sec=0.1)
        assert received[0] == message
        now = found.snapshot
        assert (now.encoding, now.width, now.height, now.size_bytes) == expected and now.received == 1
    finally:
        executor.shutdown()
        node.destroy_node()
        context.shutdown()
