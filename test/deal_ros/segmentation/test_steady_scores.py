"""The temporal filter on messages: the camera's pose from TF or odometry, and what a frame may lack."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseWithCovariance, TransformStamped
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from deal_core.errors import UsageError
from deal_core.structures import CameraIntrinsics, pose_matrix
from deal_ros.input.conversions import camera_to_info, stamp_from_ns, stamp_to_ns
from deal_ros.segmentation import camera_motion
from deal_ros.segmentation.outputs import FrameInputs
from deal_ros.segmentation.parameters import SegmentationParameters
from deal_ros.segmentation.steady_scores import SteadyScores

SIZE = (48, 64)
CAMERA = CameraIntrinsics(64, 48, 60.0, 60.0, 31.5, 23.5)
OPTICAL, BASE = "camera_color_optical_frame", "base_link"
HALF_TURN = (0.0, 0.0, 1.0, 0.0)
FRAME_NS = 33_000_000


class TransformError(Exception):
    """What tf2 raises where a transform is not known."""


class Transforms:
    """The part of tf2_ros.Buffer that is used: transforms by frames, at some stamp or at all (None)."""

    known: ClassVar[dict[tuple[str, str, int | None], TransformStamped]] = {}

    def lookup_transform(self, target: str, source: str, time: Any) -> TransformStamped:
        found = self.known.get((target, source, time.nanoseconds)) or self.known.get((target, source, None))
        if found is None:
            raise TransformError(f"{target} to {source}")
        return found


class FakeNode:
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.subscribed: dict[str, Any] = {}

    def get_logger(self) -> Any:
        return SimpleNamespace(warning=lambda text, **_: self.warnings.append(text))

    def resolve_topic_name(self, topic: str) -> str:
        return f"/{topic}"

    def create_subscription(self, kind: Any, topic: str, callback: Any, qos: Any) -> str:
        self.subscribed[topic] = callback
        return topic

    def destroy_subscription(self, topic: str) -> None:
        del self.subscribed[topic]


@pytest.fixture
def transforms(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[tuple[str, str, int | None], TransformStamped]]:
    """tf2_ros and nav_msgs, which are not among the wheels on PyPI."""
    monkeypatch.setattr(Transforms, "known", {})
    listener = SimpleNamespace(unregister=lambda: None)
    tf2 = SimpleNamespace(
        Buffer=Transforms, TransformListener=lambda buffer, node: listener, TransformException=TransformError
    )
    monkeypatch.setattr(camera_motion, "tf2_ros", tf2)
    monkeypatch.setattr(camera_motion, "Odometry", SimpleNamespace)
    yield Transforms.known


def transform(x: float = 0.0, turn: tuple[float, ...] = (0.0, 0.0, 0.0, 1.0)) -> TransformStamped:
    found = TransformStamped()
    found.transform.translation.x = x
    for name, value in zip("xyzw", turn, strict=True):
        setattr(found.transform.rotation, name, value)
    return found


def odometry(stamp_ns: int, x: float, child: str) -> SimpleNamespace:
    pose = PoseWithCovariance()
    pose.pose.position.x = x
    return SimpleNamespace(header=Header(stamp=stamp_from_ns(stamp_ns)), child_frame_id=child, pose=pose)


def header(frame: int) -> Header:
    return Header(stamp=stamp_from_ns(FRAME_NS * (frame + 1)), frame_id=OPTICAL)


def test_the_pose_is_that_of_tf_at_the_images_stamp(transforms: dict[Any, TransformStamped]) -> None:
    motion = camera_motion.CameraMotion(FakeNode(), "odom")
    assert motion.pose(header(0)) is None
    for frame in range(2):
        transforms["odom", OPTICAL, stamp_to_ns(header(frame).stamp)] = transform(frame, HALF_TURN)
    for frame in range(2):
        np.testing.assert_allclose(motion.pose(header(frame)), pose_matrix((frame, 0, 0), HALF_TURN))
    assert motion.pose(header(2)) is None


@pytest.mark.parametrize("has_tf", [True, False])
def test_where_tf_does_not_know_the_camera_odometry_does(
    transforms: dict[Any, TransformStamped], has_tf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_tf:
        monkeypatch.setattr(camera_motion, "tf2_ros", None)
    node = FakeNode()
    motion = camera_motion.CameraMotion(node, "odom")
    for body, mounted in ((OPTICAL, True), (BASE, False)):
        for stamp_ns, x in ((FRAME_NS, 1.0), (3 * FRAME_NS, 3.0)):
            node.subscribed["odom"](odometry(stamp_ns, x, body))
        found = motion.pose(header(1))
        assert (found is not None) is mounted
        if found is not None:
            np.testing.assert_allclose(found, pose_matrix((2, 0, 0), (0, 0, 0, 1)), atol=1e-12)
    transforms[BASE, OPTICAL, None] = transform(0.5, HALF_TURN)
    found = motion.pose(header(1))
    assert (found is not None) is has_tf
    if found is not None:
        np.testing.assert_allclose(found, pose_matrix((2.5, 0, 0), HALF_TURN), atol=1e-12)
    motion.close()
    assert not node.subscribed


def test_without_tf_and_odometry_the_parameter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_motion, "tf2_ros", None)
    monkeypatch.setattr(camera_motion, "Odometry", None)
    with pytest.raises(UsageError, match=r"temporal_weight.*expected tf2_ros or nav_msgs"):
        camera_motion.CameraMotion(FakeNode(), "odom")


def test_scores_move_with_the_camera_and_a_frame_that_lacks_something_keeps_its_own(
    transforms: dict[Any, TransformStamped],
) -> None:
    node = FakeNode()
    steady = SteadyScores(node, SegmentationParameters(model="m", temporal_weight=0.8))
    info = camera_to_info(CAMERA, Header(stamp=Time(), frame_id=OPTICAL))
    rgb, depth = np.zeros((*SIZE, 3), np.uint8), np.full(SIZE, 2.0, np.float32)
    for frame in range(4):
        # At 2 m, 4 pixels, which are one score.
        transforms["odom", OPTICAL, stamp_to_ns(header(frame).stamp)] = transform(frame * 2 * 4 / 60)
    scores = np.zeros((1, 12, 16), np.float32)
    scores[0, 4:8, 6:9] = 1
    np.testing.assert_array_equal(steady(FrameInputs(header(0), rgb, depth), scores, info), scores)
    moved = np.roll(scores, -1, axis=2)
    np.testing.assert_allclose(steady(FrameInputs(header(1), rgb, depth), moved, info), moved, atol=1e-5)
    nothing = np.zeros_like(scores)
    found = steady(FrameInputs(header(2), rgb, depth), nothing, info)
    np.testing.assert_allclose(found, 0.4 * np.roll(scores, -2, axis=2), atol=1e-5)
    assert not node.warnings
    other = CameraInfo(height=48, width=64)
    for inputs, given, said in (
        (FrameInputs(header(3), rgb, None), info, "no depth"),
        (FrameInputs(header(3), rgb, depth), None, "no camera_info"),
        (FrameInputs(header(9), rgb, depth), info, "no pose of the camera in TF or odometry"),
        (FrameInputs(header(3), rgb, depth), other, "calibrated"),
    ):
        np.testing.assert_array_equal(steady(inputs, nothing, given), nothing)
        assert said in node.warnings[-1]
    steady.reset()
    np.testing.assert_array_equal(steady(FrameInputs(header(3), rgb, depth), nothing, info), nothing)
    steady.close()
