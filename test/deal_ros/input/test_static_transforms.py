"""Transforms between frames, along the tree of /tf_static."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from std_msgs.msg import Header

from deal_ros.input.static_transforms import StaticTransforms


def stamped(parent: str, child: str, shift: tuple[float, ...], turn: tuple[float, ...]) -> TransformStamped:
    x, y, z, w = turn
    transform = Transform(
        translation=Vector3(x=shift[0], y=shift[1], z=shift[2]), rotation=Quaternion(x=x, y=y, z=z, w=w)
    )
    return TransformStamped(header=Header(frame_id=parent), child_frame_id=child, transform=transform)


def quaternion(axis: tuple[float, float, float], angle: float) -> tuple[float, ...]:
    return (*(np.sin(angle / 2) * np.array(axis)), float(np.cos(angle / 2)))


OPTICAL = (-0.5, 0.5, -0.5, 0.5)  # from x forward, y left, z up to z forward, x right, y down
TREE = [
    stamped("link", "depth", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)),
    stamped("depth", "depth_optical", (0.0, 0.0, 0.0), OPTICAL),
    stamped("/link", "color", (0.0, 0.015, 0.0), quaternion((0.0, 0.0, 1.0), 0.01)),
    stamped("color", "color_optical", (0.0, 0.0, 0.0), OPTICAL),
]


def test_points_go_from_one_optical_frame_to_the_other() -> None:
    transforms = StaticTransforms()
    transforms.add(TREE)
    found = transforms.between("depth_optical", "color_optical")
    # The colour camera is 15 mm to the left of the depth camera and turned to the left, that is about -y of the image.
    expected = np.eye(4)
    expected[:3, :3] = cv2.Rodrigues(np.array([0.0, 0.01, 0.0]))[0]
    expected[:3, 3] = expected[:3, :3] @ [0.015, 0.0, 0.0]
    assert found == pytest.approx(expected, abs=1e-9)
    assert transforms.between("color_optical", "depth_optical") == pytest.approx(np.linalg.inv(found))
    assert transforms.between("/color", "color") == pytest.approx(np.eye(4))


def test_a_later_message_replaces_an_earlier_one_and_its_length_does_not_count() -> None:
    transforms = StaticTransforms()
    transforms.add([stamped("a", "b", (1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))])
    transforms.add([stamped("a", "b", (2.0, 0.0, 0.0), (0.0, 0.0, 3.0, 3.0))])
    found = transforms.between("b", "a")
    assert found @ [1.0, 0.0, 0.0, 1.0] == pytest.approx([2.0, 1.0, 0.0, 1.0])


def test_what_is_no_transform_is_left_out_and_a_circle_ends() -> None:
    transforms = StaticTransforms()
    transforms.add([stamped("a", "b", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))])
    transforms.add([stamped("a", "c", (float("nan"), 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))])
    assert transforms.between("b", "a") is None and transforms.between("c", "a") is None
    transforms.add([stamped("b", "a", (0.0, 0.0, 0.0), OPTICAL), stamped("a", "b", (0.0, 0.0, 0.0), OPTICAL)])
    assert transforms.between("a", "elsewhere") is None
