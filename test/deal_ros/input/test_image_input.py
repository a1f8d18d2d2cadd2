"""One subscription, over real DDS, for either kind of image."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from deal_ros.input.conversions import color_to_rgb, image_to_raw
from deal_ros.input.image_input import ImageInput, subscription_events
from deal_ros.node.transport import PROFILE_VARIABLES

# Sends images that do not fit the default shared memory, each third a small one that arrives, and tells how many.
SENDER = """
import sys, time, rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("sender")
publisher = node.create_publisher(Image, "color/image", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
while not publisher.get_subscription_count():
    time.sleep(0.05)
for number in range(1, 31):
    message = Image(height=number)
    message.data.frombytes(bytes(100 if number % 3 == 0 else 3_000_000))
    publisher.publish(message)
    time.sleep(0.02)
time.sleep(1)
"""


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


class GpuBuffer:
    """What rclpy of Lyrical gives for data in the memory of a GPU: no sequence and no view, but a way to copy it."""

    backend_type = "cuda"

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __len__(self) -> int:
        return len(self._content)

    def to_bytes(self) -> bytes:
        return self._content


@pytest.fixture
def node(new_domain: Callable[[], int]) -> Iterator[Any]:
    context = Context()
    rclpy.init(args=[], context=context, domain_id=new_domain())
    found = rclpy.create_node("listener", context=context)
    yield found
    found.destroy_node()
    context.shutdown()


@pytest.fixture
def created(node: Any, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the input gives to rclpy when it subscribes."""
    found = SimpleNamespace()

    def create(kind: Any, topic: str, callback: Any, qos: Any, event_callbacks: Any) -> str:
        found.take, found.events = callback, event_callbacks
        return "subscription"

    monkeypatch.setattr(node, "create_subscription", create)
    return found


def test_images_on_a_gpu_are_copied_and_told(node: Any, created: SimpleNamespace, capfd: Any) -> None:
    received: list[Any] = []
    found = ImageInput(node, "color", "color/image", "auto", received.append)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 3), np.uint8)
    form = {"header": Header(), "height": 2, "width": 3, "step": 9, "encoding": "rgb8", "is_bigendian": 0}
    for _ in range(2):
        created.take(SimpleNamespace(**form, data=GpuBuffer(pixels.tobytes())))
    assert (found.snapshot.memory, found.snapshot.size_bytes) == ("cuda", 18)
    np.testing.assert_array_equal(color_to_rgb(received[0]), pixels)
    assert bytes(image_to_raw(received[0]).data) == pixels.tobytes()
    sentence = "/color/image: images are in 'cuda' memory; each is copied to main memory before it is used"
    assert capfd.readouterr().err.count(sentence) == 1
    created.take(SimpleNamespace(**form, data=pixels.tobytes()))
    assert found.snapshot.memory == "cpu"


def test_events_of_lost_messages_are_added_up(node: Any, created: SimpleNamespace) -> None:
    found = ImageInput(node, "color", "color/image", "auto", lambda message: None)
    for change in (1, 2**31 - 1, 3, 1):
        created.events.message_lost(SimpleNamespace(total_count=0, total_count_change=change))
    assert found.snapshot.lost == 5


def test_a_middleware_without_such_events_is_subscribed_all_the_same(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    created: list[dict[str, Any]] = []

    def create(*given: Any, **named: Any) -> str:
        created.append(named)
        if "event_callbacks" in named:
            raise subscription_events().UnsupportedEventTypeError("not supported")
        return "subscription"

    monkeypatch.setattr(node, "create_subscription", create)
    found = ImageInput(node, "color", "color/image", "auto", lambda message: None)
    assert len(created) == 2 and found.snapshot.is_subscribed and found.snapshot.lost == 0


@pytest.mark.ros
def test_messages_that_the_middleware_loses_are_counted(node: Any) -> None:
    """A process without the shared-memory profile sends; what arrives and what is told as lost add up."""
    numbers: list[int] = []
    found = ImageInput(node, "color", "color/image", "best_effort", lambda message: numbers.append(message.height))
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    environment = {key: value for key, value in os.environ.items() if key not in PROFILE_VARIABLES}
    environment["ROS_DOMAIN_ID"] = str(node.context.get_domain_id())
    sender = subprocess.Popen([sys.executable, "-c", SENDER], env=environment)
    try:
        while sender.poll() is None:
            executor.spin_once(timeout_sec=0.05)
        for _ in range(10):
            executor.spin_once(timeout_sec=0.05)
    finally:
        sender.kill()
        executor.shutdown()
    assert numbers and set(range(3, 31, 3)) >= {number for number in numbers if number % 3 == 0}
    between = numbers[-1] - numbers[0] + 1 - len(numbers)
    assert between <= found.snapshot.lost <= 30 - len(numbers)
