"""Poses over time: between measured ones, shortly after, and where they are not known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from deal_core.runtime.pose_track import PoseTrack

MS = 1_000_000


def turning(time_s: float) -> np.ndarray:
    """Return the pose of a body that moves and turns steadily."""
    found = np.eye(4)
    found[:3, :3] = cv2.Rodrigues(np.array([0.1, -0.3, 0.2]) * time_s)[0] @ cv2.Rodrigues(np.array([1.0, 2.0, 0.5]))[0]
    found[:3, 3] = np.array([1.0, -2.0, 0.5]) * time_s
    return found


@pytest.mark.parametrize("time_ms", [0, 15, 20, 33, 60, 79, 80, 100, 130])
def test_between_and_shortly_after_the_poses_the_motion_is_steady(time_ms: int) -> None:
    track = PoseTrack()
    for stamp in range(0, 100, 20):
        track.add(stamp * MS, turning(stamp / 1000))
    np.testing.assert_allclose(track.at(time_ms * MS), turning(time_ms / 1000), atol=1e-9)


def test_elsewhere_nothing_is_known() -> None:
    track = PoseTrack()
    assert track.at(0) is None
    track.add(100 * MS, turning(0.1))
    assert track.at(101 * MS) is None
    np.testing.assert_array_equal(track.at(100 * MS), turning(0.1))
    track.add(120 * MS, turning(0.12))
    assert track.at(99 * MS) is None and track.at(171 * MS) is None and track.at(170 * MS) is not None
    track.add(700 * MS, turning(0.7))
    assert track.at(400 * MS) is None and track.at(110 * MS) is not None


def test_a_pose_that_goes_back_begins_a_new_track_and_old_ones_are_forgotten() -> None:
    track = PoseTrack(length=3)
    for stamp in (100, 120, 140, 160):
        track.add(stamp * MS, turning(stamp / 1000))
    assert track.at(110 * MS) is None and track.at(130 * MS) is not None
    track.add(10 * MS, turning(0.01))
    assert track.at(150 * MS) is None and track.at(10 * MS) is not None
