"""Visual odometry on rendered rooms, whose poses are known."""

from __future__ import annotations

import shutil
from itertools import islice, pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.extract import ExtractOptions, extract_recording
from deal_core.dataset.poses import read_trajectory
from deal_core.errors import UsageError
from deal_core.structures import Float64Array
from deal_core.synthetic.recording import render_scenes, write_recording
from deal_core.synthetic.rooms import RoomsConfig
from deal_core.views import odometry
from deal_core.views.odometry import estimate_poses

FRAMES = 6


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, Float64Array]]:
    """The first frames of a room, seen by a camera that moves some centimetres a frame; read only."""
    folder = tmp_path_factory.mktemp("rooms")
    config = RoomsConfig(
        seed=5, scenes=1, frames_per_scene=60, width=160, height=120, difficulties=(), frame_rate_hz=30.0
    )
    write_recording(folder / "room", config, islice(render_scenes(config), FRAMES))
    extract_recording(folder / "room", folder / "data", ExtractOptions())
    return folder / "data", read_trajectory(folder / "room" / "ground_truth" / "poses.json")


def test_the_motion_between_neighbours_is_found(rooms: tuple[Path, dict[int, Float64Array]]) -> None:
    path, truth = rooms
    dataset = Dataset.open(path)
    found = estimate_poses(dataset, "room")
    stamps = [frame.stamp_ns for frame in dataset.frames]
    assert (found.chains, found.failed) == (1, 0) and list(found.poses) == stamps
    for before, after in pairwise(stamps):
        true, seen = (np.linalg.inv(poses[before]) @ poses[after] for poses in (truth, found.poses))
        assert np.linalg.norm(true[:3, 3] - seen[:3, 3]) < 0.01
        assert np.linalg.norm(true[:3, 3] - seen[:3, 3]) < 0.5 * max(np.linalg.norm(true[:3, 3]), 0.01)


def test_frames_that_cannot_be_registered_begin_a_chain_far_away(
    rooms: tuple[Path, dict[int, Float64Array]], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(rooms[0], tmp_path / "data"))
    dataset = Dataset.open(path)
    black = dataset.frames[3]
    assert black.depth is not None
    cv2.imwrite(str(black.depth), np.zeros((120, 160), np.uint16))
    found = estimate_poses(dataset, "room")
    places = [pose[0, 3] for pose in found.poses.values()]
    assert found.failed == 2 and found.chains == 3
    assert places[3] == pytest.approx(100.0) and places[4] == pytest.approx(200.0) and abs(places[2]) < 1


def test_what_is_missing_is_told(
    rooms: tuple[Path, dict[int, Float64Array]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(rooms[0], tmp_path / "data"))
    (path / "recordings" / "room" / "camera.json").unlink()
    with pytest.raises(UsageError, match=r"no camera\.json"):
        estimate_poses(Dataset.open(path), "room")
    monkeypatch.delattr(odometry.cv2, "OdometrySettings")
    with pytest.raises(UsageError, match="expected OpenCV 5"):
        estimate_poses(Dataset.open(rooms[0]), "room")
