"""The camera's poses in a recording, from TF and from odometry, in MCAP and in sqlite3."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.motion import add_odometry, add_tf, transform

from deal_core.errors import RecordingError
from deal_core.recording.camera_poses import CameraPoses, read_camera_poses
from deal_core.recording.image_messages import MessageDecoder
from deal_core.recording.reader import open_recording
from deal_core.structures import pose_matrix

S = 1_000_000_000
TURN = (0.0, 0.0, math.sin(0.3), math.cos(0.3))
MOUNT = ((0.1, 0.0, 1.2), (-0.5, 0.5, -0.5, 0.5))
STAMPS = [S, S + S // 4, 2 * S, 9 * S]


@pytest.fixture
def poses_of(tmp_path: Path) -> Callable[..., CameraPoses]:
    def read(bag: Any, storage: str = "mcap", **options: Any) -> CameraPoses:
        with open_recording(bag.save(tmp_path / f"bag_{storage}", storage)) as recording:
            return read_camera_poses(recording, MessageDecoder(), "optical", STAMPS, **options)

    return read


@pytest.fixture
def bag(new_bag: Callable[[], Any]) -> Any:
    """A robot that drives 2 m/s along x in odom, with map turned against odom."""
    made = new_bag()
    add_tf(made, 0, transform(made, "base", "optical", 0, *MOUNT), topic="/tf_static")
    for half in range(2, 6):
        at = half * S // 2
        add_tf(
            made,
            at,
            transform(made, "odom", "base", at, (half, 0, 0)),
            transform(made, "map", "odom", at, (0, 0, 0), TURN),
        )
    return made


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_tf_gives_the_pose_at_the_stamp_of_the_image(
    bag: Any, poses_of: Callable[..., CameraPoses], storage: str
) -> None:
    found = poses_of(bag, storage)
    assert sorted(found.poses) == STAMPS[:3]
    for stamp, pose in found.poses.items():
        body = pose_matrix((2 * stamp / S, 0, 0), (0, 0, 0, 1))
        np.testing.assert_allclose(pose, pose_matrix((0, 0, 0), TURN) @ body @ pose_matrix(*MOUNT), atol=1e-9)
    assert found.notes == ("poses of TF, in the frame map for 3 of 4 frames",)


def test_another_fixed_frame_can_be_named(bag: Any, poses_of: Callable[..., CameraPoses]) -> None:
    found = poses_of(bag, fixed_frame="/odom")
    np.testing.assert_allclose(found.poses[S], pose_matrix((2, 0, 0), (0, 0, 0, 1)) @ pose_matrix(*MOUNT), atol=1e-9)


def test_a_wrong_fixed_frame_is_told_with_those_there_are(bag: Any, poses_of: Callable[..., CameraPoses]) -> None:
    with pytest.raises(
        RecordingError, match=r"never gives the pose of optical in 'world': expected one of base, odom, map"
    ):
        poses_of(bag, fixed_frame="world")


def test_odometry_serves_where_tf_knows_only_the_mount(
    new_bag: Callable[[], Any], poses_of: Callable[..., CameraPoses]
) -> None:
    bag = new_bag()
    add_tf(bag, 0, transform(bag, "base", "optical", 0, *MOUNT), topic="/robot/tf_static")
    for half in range(2, 6):
        add_odometry(bag, half * S // 2, "base", (half, 0, 0))
    found = poses_of(bag)
    assert sorted(found.poses) == STAMPS[:3]
    np.testing.assert_allclose(
        found.poses[S + S // 4], pose_matrix((2.5, 0, 0), (0, 0, 0, 1)) @ pose_matrix(*MOUNT), atol=1e-9
    )
    assert found.notes == ("poses of /odom for 3 of 4 frames",)


def test_odometry_of_the_camera_itself_needs_no_tf(
    new_bag: Callable[[], Any], poses_of: Callable[..., CameraPoses]
) -> None:
    bag = new_bag()
    add_odometry(bag, S, "/optical", (1, 2, 3), topic="/vio")
    add_odometry(bag, S, "base", (1, 2, 3), topic="/wheels")
    found = poses_of(bag)
    np.testing.assert_allclose(found.poses[S][:3, 3], (1, 2, 3))
    assert found.notes == ("poses of /vio for 1 of 4 frames", "/wheels is another odometry topic")
    wheels = poses_of(bag, "sqlite3", odometry_topic="/wheels")
    assert wheels.poses == {} and "does not tell where optical is" in wheels.notes[1]


def test_a_wrong_odometry_topic_is_told(bag: Any, poses_of: Callable[..., CameraPoses]) -> None:
    with pytest.raises(RecordingError, match=r"no odometry topic '/odom': expected one of none"):
        poses_of(bag, odometry_topic="/odom")


def test_a_recording_without_tf_has_no_poses_and_no_note(
    new_bag: Callable[[], Any], poses_of: Callable[..., CameraPoses]
) -> None:
    bag = new_bag()
    bag.tags(S, "mug")
    found = poses_of(bag)
    assert found.poses == {} and found.notes == ()


def test_a_camera_that_stands_on_its_mount_has_no_poses(
    new_bag: Callable[[], Any], poses_of: Callable[..., CameraPoses]
) -> None:
    bag = new_bag()
    add_tf(bag, 0, transform(bag, "base", "optical", 0, *MOUNT), topic="/tf_static")
    found = poses_of(bag)
    assert not found.poses and "TF does not tell how optical moves" in found.notes[0]


def test_damaged_messages_are_counted(bag: Any, poses_of: Callable[..., CameraPoses]) -> None:
    bag.raw("/tf", "tf2_msgs/msg/TFMessage", S, b"\0\1\0\0\xff\xff\xff\x7f")
    found = poses_of(bag)
    assert len(found.poses) == 3 and "1 messages of TF cannot be read" in found.notes
