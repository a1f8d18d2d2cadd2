"""`deal poses`: which poses the frames get, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.poses import read_poses

Deal = Callable[..., Any]


@pytest.fixture
def dataset(tiny_dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dataset, tmp_path / "kitchen"))


def lines(stamps: list[int], x: float = 0.0) -> str:
    return "".join(f"{stamp / 1e9:.9f} {x} 0 0 0 0 0 1\n" for stamp in stamps)


def test_each_frame_takes_the_nearest_pose(deal: Deal, dataset: Path, tmp_path: Path) -> None:
    opened = Dataset.open(dataset)
    stamps = [frame.stamp_ns for frame in opened.frames]
    file = tmp_path / "track.txt"
    file.write_text(lines([stamps[0] + 10_000_000], 1) + lines([stamps[0] - 15_000_000], 2) + lines([stamps[1]], 3))
    done = deal("poses", dataset, file)
    assert done.returncode == 0 and f"poses of 2 of {len(stamps)} frames of tiny" in done.stderr, done.stderr
    found = read_poses(dataset, "tiny")
    assert {stamp: pose[0, 3] for stamp, pose in found.items()} == {stamps[0]: 1, stamps[1]: 3}
    deal("poses", dataset, file, "--slop", "0.001")
    assert list(read_poses(dataset, "tiny")) == [stamps[1]]


def test_poses_are_estimated_from_the_images(deal: Deal, dataset: Path) -> None:
    frames = Dataset.open(dataset).frames
    done = deal("poses", dataset, "--odometry")
    assert done.returncode == 0 and f"poses of {len(frames)} of {len(frames)} frames of tiny" in done.stderr
    assert "chains of frames" in done.stderr
    assert sorted(read_poses(dataset, "tiny")) == [frame.stamp_ns for frame in frames]


def test_a_trajectory_or_odometry_is_asked_for(deal: Deal, dataset: Path, tmp_path: Path) -> None:
    for arguments in ((), (tmp_path / "track.txt", "--odometry")):
        done = deal("poses", dataset, *arguments)
        assert done.returncode == 2 and "expected either a trajectory or --odometry" in done.stderr


def test_what_fits_nothing_is_refused_and_changes_nothing(deal: Deal, dataset: Path, tmp_path: Path) -> None:
    file = tmp_path / "track.txt"
    file.write_text(lines([10**9]))
    done = deal("poses", dataset, file)
    assert done.returncode == 1 and "none of its 1 poses is within 0.02 s of a frame of tiny" in done.stderr
    assert deal("poses", dataset, file, "--recording", "tinny").returncode == 2
    assert deal("poses", dataset, file, "--slop", "-1").returncode == 2
    assert read_poses(dataset, "tiny") == {}
    shutil.copytree(dataset / "recordings" / "tiny", dataset / "recordings" / "other")
    done = deal("poses", dataset, file)
    assert done.returncode == 2 and "recordings other, tiny: name one with --recording" in done.stderr
