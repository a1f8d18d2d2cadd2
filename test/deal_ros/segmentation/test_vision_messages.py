"""LabelInfo and Detection3DArray as generated messages over DDS, from a node that finds vision_msgs installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from helpers.interface_packages import BUILD_S
from helpers.ros_client import NODE, Client

pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(BUILD_S)]
CLASSES = {0: "background", 1: "mug", 2: "drill", 3: "box", 255: "unlabelled"}


@pytest.fixture
def client(
    interface_packages: None, start_node: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """A client in the domain of a node and of a camera, processes that found vision_msgs when they started."""
    from deal_ros.node.process import node_process

    running = start_node(max_age_ms=0, object_min_points=10)
    with node_process(
        "deal_ros.synthetic_camera.main",
        tmp_path_factory.mktemp("camera") / "output.txt",
        parameters={"profile": "96x64x10", "views": 1},
        environment={"ROS_DOMAIN_ID": str(running.domain), "OMP_NUM_THREADS": "1"},
    ):
        client = Client(running.domain, "client")
        client.wait(lambda: client.labels or client.values or not running.node.is_alive(), "the node")
        assert running.node.is_alive(), running.node.text()
        yield client
        client.close()


def test_labels_and_objects_are_received_as_vision_messages(client: Client) -> None:
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from vision_msgs.msg import Detection3DArray, LabelInfo
    from visualization_msgs.msg import Marker, MarkerArray

    from deal_ros.input.qos import labels_qos

    labels: list[LabelInfo] = []
    detections: list[Detection3DArray] = []
    markers: list[MarkerArray] = []
    best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
    client.node.create_subscription(LabelInfo, f"{NODE}/label_info", labels.append, labels_qos())
    client.node.create_subscription(Detection3DArray, f"{NODE}/objects", detections.append, best_effort)
    client.node.create_subscription(MarkerArray, f"{NODE}/object_markers", markers.append, best_effort)

    client.wait(lambda: bool(labels), "labels")
    (info,) = labels
    assert {entry.class_id: entry.class_name for entry in info.class_map} == CLASSES
    assert info.threshold == pytest.approx(0.4) and info.header.stamp.sec > 0

    def pairs() -> list[tuple[Detection3DArray, MarkerArray]]:
        return [(d, m) for d in detections for m in markers if d.detections and m.markers[0].header == d.header]

    client.wait(pairs, "objects and their markers")
    found, shown = pairs()[0]
    boxes = [marker for marker in shown.markers if marker.type == Marker.CUBE and marker.action == Marker.ADD]
    assert len(boxes) == len(found.detections)
    for detection, box in zip(found.detections, boxes, strict=True):
        assert detection.header == found.header
        assert detection.bbox.center == box.pose
        (result,) = detection.results
        assert result.hypothesis.class_id in CLASSES.values() and 0 < result.hypothesis.score <= 1
        assert result.pose.pose == detection.bbox.center and len(result.pose.covariance) == 36
