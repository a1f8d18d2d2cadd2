"""TF and odometry over DDS, as serialised messages."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from geometry_msgs.msg import TransformStamped, Vector3
from helpers.interface_packages import BUILD_S
from helpers.ros_client import Client
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Header

from deal_core.recording.image_messages import MessageDecoder
from deal_ros.recorder import motion_topics
from deal_ros.recorder.motion_topics import MotionTopics

pytestmark = [pytest.mark.ros, pytest.mark.timeout(BUILD_S)]


def test_tf_arrives_as_it_was_sent_also_that_from_before(
    interface_packages: None, new_domain: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tf2_msgs.msg import TFMessage

    monkeypatch.setattr(motion_topics, "TFMessage", TFMessage)
    client = Client(new_domain(), "robot")
    try:
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        static = client.node.create_publisher(TFMessage, "/tf_static", latched)
        moving = client.node.create_publisher(TFMessage, "/tf", 10)

        def message(child: str) -> TFMessage:
            found = TransformStamped(header=Header(frame_id="base"), child_frame_id=child)
            found.transform.translation = Vector3(x=0.5, y=0.0, z=0.0)
            return TFMessage(transforms=[found])

        static.publish(message("camera"))
        heard: dict[str, tuple[str, bytes, bool]] = {}
        topics = MotionTopics(
            client.node,
            ("/tf", "/tf_static"),
            lambda topic, kind, data, is_static: heard.update({topic: (kind, data, is_static)}),
        )
        client.node.create_timer(0.1, lambda: moving.publish(message("wheel")))
        client.wait(lambda: len(heard) == 2, "both topics")
        topics.close()
        for topic, child in (("/tf", "wheel"), ("/tf_static", "camera")):
            kind, data, is_static = heard[topic]
            assert (kind, is_static) == ("tf2_msgs/msg/TFMessage", topic == "/tf_static")
            (found,) = MessageDecoder().transforms(data)
            assert (found.parent, found.child, found.pose[0, 3]) == ("base", child, 0.5)
    finally:
        client.close()


def test_a_lack_of_message_packages_is_named(new_domain: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TFMessage", "Odometry"):
        monkeypatch.setattr(motion_topics, name, None)
    client = Client(new_domain(), "robot")
    try:
        found = MotionTopics(client.node, ("/tf", "vio/odometry"), lambda *_: None)
        assert found.missing == ["/tf", "vio/odometry"]
    finally:
        client.close()
