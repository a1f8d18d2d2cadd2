"""Which image topics are named when nobody publishes the wanted one."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

import rclpy
from rclpy.context import Context
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from deal_ros.input.image_input import ImageInput
from deal_ros.input.nearest_topics import describe_nearest, nearest_topics, published_image_topics

REALSENSE = ("color/image_raw", "aligned_depth_to_color/image_raw", "depth/image_rect_raw", "infra1/image_rect_raw")


def camera(name: str) -> list[str]:
    return [f"{name}/{stream}" for stream in REALSENSE]


@pytest.mark.parametrize(
    ("wanted", "existing", "nearest"),
    [
        ("/camera/camera/color/image_raw", camera("/robot1/camera/camera"), "/robot1/camera/camera/color/image_raw"),
        ("/camera/camera/color/image_raw", camera("/camera"), "/camera/color/image_raw"),
        ("/camera/camera/color/image_raw", camera("/camera/front"), "/camera/front/color/image_raw"),
        (
            "/camera/camera/aligned_depth_to_color/image_raw",
            camera("/camera/front"),
            "/camera/front/aligned_depth_to_color/image_raw",
        ),
        ("/robot1/camera/camera/color/image_raw", camera("/camera/camera"), "/camera/camera/color/image_raw"),
        ("/color/image_raw", ["/zed/left/image", "/oak/rgb/image_raw", "/deal/mask"], "/oak/rgb/image_raw"),
        ("/camera/color/image_raw", ["/camera/color/image_rawe", "/x"], "/camera/color/image_rawe"),
    ],
)
def test_the_nearest_topic_comes_first(wanted: str, existing: list[str], nearest: str) -> None:
    found = nearest_topics(wanted, existing)
    assert found[0] == nearest and len(found) == min(3, len(existing)) and set(found) <= set(existing)
    assert nearest_topics(wanted, reversed(existing)) == found


def test_a_sentence_names_them() -> None:
    assert describe_nearest(()) == "no image topic has one"
    assert describe_nearest(("/a",)) == "the nearest image topic with one: /a"
    assert describe_nearest(("/a", "/b")) == "the nearest image topics with one: /a, /b"


def test_topics_with_a_publisher_of_images_are_found(new_domain: Callable[[], int]) -> None:
    context = Context()
    rclpy.init(args=[], context=context, domain_id=new_domain())
    node, other = (rclpy.create_node(name, context=context) for name in ("listener", "camera"))
    try:
        found = ImageInput(node, "color", "camera/color/image_raw", "auto", print)
        assert found.snapshot.nearest == ()
        node.create_publisher(Image, "~/mask", 1)  # the node's own output
        other.create_subscription(Image, "/wanted/image", print, 1)  # nobody publishes it
        other.create_publisher(CameraInfo, "/robot1/camera/color/camera_info", 1)
        other.create_publisher(CompressedImage, "/robot1/camera/color/image_raw/compressed", 1)
        wait(lambda: published_image_topics(node, Image) == ["/robot1/camera/color/image_raw/compressed"])
        other.create_publisher(Image, "/robot1/camera/color/image_raw", 1)
        wait(lambda: found.snapshot.nearest == ("/robot1/camera/color/image_raw",))
        other.create_publisher(Image, "camera/color/image_raw", 1)
        wait(lambda: found.snapshot.offers == ("reliable",) and found.snapshot.nearest == ())
    finally:
        other.destroy_node()
        node.destroy_node()
        context.shutdown()


def wait(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.05)
