"""Poses in a dataset, and trajectories of other tools."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.dataset.poses import read_poses, read_trajectory, write_poses
from deal_core.errors import DatasetError
from deal_core.structures import pose_matrix

PARTS = st.floats(-1, 1)


def test_poses_are_read_as_they_were_written(tmp_path: Path) -> None:
    folder = tmp_path / "recordings" / "a"
    folder.mkdir(parents=True)
    assert read_poses(tmp_path, "a") == {}
    poses = {5: pose_matrix((1, 2, 3), (0, 0, 1, 1)), 7: pose_matrix((0, 0, 0), (1, 2, 3, 4))}
    write_poses(tmp_path, "a", poses)
    found = read_poses(tmp_path, "a")
    assert found.keys() == poses.keys() and all(np.array_equal(found[stamp], poses[stamp]) for stamp in poses)


@given(st.tuples(PARTS, PARTS, PARTS, PARTS).filter(lambda q: np.linalg.norm(q) > 0.1))
def test_a_line_of_tum_is_the_pose_of_the_node(tmp_path_factory: pytest.TempPathFactory, quaternion: tuple) -> None:
    file = tmp_path_factory.mktemp("poses") / "poses.txt"
    numbers = " ".join(repr(float(part)) for part in (0.5, -1, 2, *quaternion))
    file.write_text(f"# stamp tx ty tz qx qy qz qw\n\n1305031098.6659 {numbers}\n")
    ((stamp, pose),) = read_trajectory(file).items()
    assert stamp == 1305031098665900000
    np.testing.assert_allclose(pose, pose_matrix((0.5, -1, 2), quaternion), atol=1e-12)


EYE = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "1 2 3\n", r"line 1: expected the numbers stamp tx"),
        ("p.txt", "1 0 0 0 0 0 0 0\n", r"line 1: expected the numbers"),
        ("p.txt", "1 0 0 nan 0 0 0 1\n", r"line 1: expected the numbers"),
        ("p.txt", "x 0 0 0 0 0 0 1\n", r"line 1: expected the numbers"),
        ("p.txt", "9" * 400 + " 0 0 0 0 0 0 1\n", r"line 1: expected the numbers"),
        ("p.txt", "9999999999 0 0 0 0 0 0 1\n", r"line 1: expected the numbers"),
        ("p.txt", "1 0 0 0 0 0 0 1e-300\n", r"line 1: expected the numbers"),
        ("p.txt", "-1 0 0 0 0 0 0 1\n", r"line 1: expected the numbers"),
        ("p.txt", "1 0 0 0 1e300 0 0 1\n", r"line 1: expected the numbers"),
        ("p.json", json.dumps({"9" * 400: {"rotation": EYE, "position": [0, 0, 0]}}), r"a stamp in nanoseconds"),
        ("p.json", '{"1": {"rotation": [[1e999, 0, 0]], "position": [0, 0, 0]}}', r"finite number"),
        ("p.json", "[" * 5000, r"cannot be read: 5000 lists"),
        ("p.json", "[]", r"p\.json"),
        ("p.json", json.dumps({"now": {"rotation": EYE, "position": [0, 0, 0]}}), r"a stamp in nanoseconds .* 'now'"),
        ("p.json", json.dumps({"1": {"rotation": EYE, "position": [0, 0]}}), r"position"),
        ("p.json", json.dumps({"1": {"rotation": EYE[:2], "position": [0, 0, 0]}}), r"rotation"),
        ("p.json", json.dumps({"1": {"rotation": [[1], [0], [0]], "position": [0, 0, 0]}}), r"3 x 3"),
        ("p.json", json.dumps({"1": {"rotation": [[2, 0, 0], *EYE[1:]], "position": [0, 0, 0]}}), r"no rotation"),
        ("p.json", json.dumps({"1": {"rotation": [[-1, 0, 0], *EYE[1:]], "position": [0, 0, 0]}}), r"no rotation"),
    ],
)
def test_a_broken_trajectory_is_refused_with_its_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_trajectory(tmp_path / name)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.txt cannot be read: No such file"):
        read_trajectory(tmp_path / "none.txt")


def test_a_trajectory_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEAL_LIMITS", "poses=3")
    (tmp_path / "p.txt").write_text("".join(f"{stamp} 0 0 0 0 0 0 1\n" for stamp in range(1, 5)))
    with pytest.raises(DatasetError, match=r"p\.txt: 4 poses are over the limit of 3"):
        read_trajectory(tmp_path / "p.txt")


def test_poses_behind_a_link_out_of_the_dataset_are_neither_read_nor_written(tmp_path: Path) -> None:
    folder = tmp_path / "dataset" / "recordings" / "a"
    folder.mkdir(parents=True)
    outside = tmp_path / "poses.json"
    outside.write_text(json.dumps({"1": {"rotation": EYE, "position": [0, 0, 0]}}))
    (folder / "poses.json").symlink_to(outside)
    with pytest.raises(DatasetError, match="outside_links"):
        read_poses(tmp_path / "dataset", "a")
    with pytest.raises(DatasetError, match="outside_links"):
        write_poses(tmp_path / "dataset", "a", {5: np.eye(4)})
    assert list(json.loads(outside.read_text())) == ["1"]


def test_a_pipe_in_place_of_poses_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.txt")
    with pytest.raises(DatasetError, match=r"p\.txt cannot be read: expected a file, found a pipe"):
        read_trajectory(tmp_path / "p.txt")
