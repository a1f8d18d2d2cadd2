"""Objects as markers and as detections."""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from helpers.interface_packages import BUILD_S
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from deal_core.runtime.objects import PixelBox, SceneObject, object_id
from deal_core.structures import ClassList
from deal_ros.input.conversions import stamp_from_ns
from deal_ros.segmentation import object_messages

CLASSES = ClassList(("mug", "drill"), ((255, 0, 0), (0, 51, 255)))
HEADER = Header(stamp=stamp_from_ns(123_456_789), frame_id="optical")
OBJECTS = (
    SceneObject(1, (0.1, -0.2, 1.5), (0.08, 0.1, 0.0), 900, 0.875, PixelBox(1, 2, 3, 4)),
    SceneObject(2, (0.0, 0.3, 0.9), (0.2, 0.15, 0.05), 400, 0.5, PixelBox(5, 6, 7, 8)),
)


def test_markers_replace_those_before() -> None:
    (only,) = object_messages.markers([], CLASSES, HEADER).markers
    assert only.action == Marker.DELETEALL and only.header == HEADER
    first, *others = object_messages.markers(OBJECTS, CLASSES, HEADER).markers
    assert first.action == Marker.DELETEALL
    assert len({(marker.ns, marker.id) for marker in others}) == 4
    assert all(marker.header == HEADER and marker.action == Marker.ADD for marker in others)


def test_each_object_is_a_box_in_its_colour_and_a_name_above_it() -> None:
    _, *shown = object_messages.markers(OBJECTS, CLASSES, HEADER).markers
    for found, box, name in zip(OBJECTS, shown[::2], shown[1::2], strict=True):
        assert box.type == Marker.CUBE
        center, scale = box.pose.position, box.scale
        assert (center.x, center.y, center.z) == found.center
        assert (scale.x, scale.y, scale.z) == pytest.approx([max(length, 0.001) for length in found.size])
        color = [component / 255 for component in CLASSES.colors[found.label - 1]]
        assert [box.color.r, box.color.g, box.color.b] == pytest.approx(color) and 0 < box.color.a < 1
        assert name.type == Marker.TEXT_VIEW_FACING and name.scale.z > 0 and name.color.a == 1
        assert name.pose.position.y < found.center[1] - found.size[1] / 2
    assert [name.text for name in shown[1::2]] == ["mug 0.88", "drill 0.50"]


@pytest.mark.timeout(BUILD_S)
def test_detections_name_class_place_and_size(vision: ModuleType) -> None:
    message = object_messages.detections(OBJECTS, CLASSES, HEADER)
    assert message.header == HEADER
    for found, detection in zip(OBJECTS, message.detections, strict=True):
        (result,) = detection.results
        assert result.hypothesis.class_id == CLASSES.names[found.label - 1]
        assert result.hypothesis.score == pytest.approx(found.confidence)
        size = detection.bbox.size
        assert (size.x, size.y, size.z) == pytest.approx(found.size)
        for pose in (result.pose.pose, detection.bbox.center):
            assert (pose.position.x, pose.position.y, pose.position.z) == found.center
            assert pose.orientation.w == 1
        assert detection.header == HEADER and detection.id == ""
        covariance = np.reshape(result.pose.covariance, (6, 6))
        assert np.diag(covariance)[:3] == pytest.approx(found.center_variance)
        assert (np.diag(covariance) > 0).all(), "a variance of 0 reads as certain"
        assert np.diag(covariance)[3:] == pytest.approx([math.pi**2 / 3] * 3), "the orientation is not measured"
        assert np.count_nonzero(covariance) == 6


@pytest.mark.timeout(BUILD_S)
def test_detections_have_the_ids_of_the_object_mask(vision: ModuleType) -> None:
    many = [replace(OBJECTS[0], points=900 - number) for number in range(129)]
    message = object_messages.detections([*many, OBJECTS[1]], CLASSES, HEADER, has_ids=True)
    ids = [detection.id for detection in message.detections]
    assert ids == [*(str(object_id(1, number)) for number in range(1, 128)), "", "", str(object_id(2, 1))]


@pytest.mark.parametrize("lifetime_s", [0.0, 2.0, 0.25])
def test_markers_leave_by_themselves(lifetime_s: float) -> None:
    _, *shown = object_messages.markers(OBJECTS, CLASSES, HEADER, lifetime_s).markers
    assert {marker.lifetime.sec + marker.lifetime.nanosec / 1e9 for marker in shown} == {lifetime_s}
