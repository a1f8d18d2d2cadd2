"""Poses of the camera in the frames of a recording.

`recordings/<name>/poses.json` has, for each stamp in nanoseconds, the `rotation` (3 x 3) from the optical frame (x
right, y down, z forward) to a world that stands still, and the `position` of the camera in it, in metres. `deal
extract` writes those that the recording has in TF or odometry, and `deal poses` others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from deal_core.dataset.dataset import RECORDINGS
from deal_core.dataset.image_files import refuse_outside
from deal_core.errors import DatasetError, explain_invalid, short
from deal_core.files import os_errors_as, read_lines, read_text, replacing, why_not
from deal_core.limits import refuse_over
from deal_core.structures import Float64Array, pose_matrix
from deal_core.text_formats import FormatError, parse_json

POSES_FILE = "poses.json"
_ROTATION_ERROR = 1e-3
_STAMP = re.compile(r"[0-9]{1,19}")
_SECONDS = re.compile(r"[0-9]{1,10}(\.[0-9]*)?")
_LARGEST = 1e6  # part of a quaternion, whose length need not be 1
_TUM = "stamp tx ty tz qx qy qz qw"


def read_poses(dataset: Path, recording: str) -> dict[int, Float64Array]:
    """Return the (4, 4) matrix from camera to world by stamp in nanoseconds; empty without poses.json.

    Raises:
        DatasetError: the file cannot be read, or has another form.
    """
    file = dataset / RECORDINGS / recording / POSES_FILE
    refuse_outside(dataset, file)
    return read_trajectory(file) if file.exists() else {}


def read_trajectory(file: Path) -> dict[int, Float64Array]:
    """Return the (4, 4) matrix from camera to world by stamp in nanoseconds.

    Args:
        file: JSON as in a dataset or in `ground_truth/poses.json` of `deal synth`; or text with a line
            `stamp tx ty tz qx qy qz qw` for each pose, with the stamp in seconds, as in the TUM benchmark.

    Raises:
        DatasetError: the file cannot be read, or has another form; the message names the line or the stamp.
    """
    try:
        if file.suffix == ".json":
            return _from_json(file, read_text(file))
        return _from_tum(file)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file} cannot be read: expected text ({error.reason})") from None
    except OSError as error:
        raise DatasetError(f"{file} cannot be read: {why_not(error)}") from None


def write_poses(dataset: Path, recording: str, poses: Mapping[int, Float64Array]) -> None:
    """Write the poses of a recording, which replace those that it had.

    Raises:
        DatasetError: the file cannot be written.
    """
    file = dataset / RECORDINGS / recording / POSES_FILE
    refuse_outside(dataset, file)
    with os_errors_as(DatasetError, f"{file} cannot be written"), replacing(file) as temporary:
        temporary.write_text(json.dumps(poses_to_json(poses)) + "\n", encoding="utf-8")


def poses_to_json(poses: Mapping[int, Float64Array]) -> dict[str, Any]:
    """Return the content of poses.json."""
    return {str(stamp): {"rotation": p[:3, :3].tolist(), "position": p[:3, 3].tolist()} for stamp, p in poses.items()}


class _Pose(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    rotation: Annotated[list[Annotated[list[float], FailFast()]], FailFast(), Field(min_length=3, max_length=3)]
    position: Annotated[list[float], FailFast(), Field(min_length=3, max_length=3)]


def _from_json(file: Path, text: str) -> dict[int, Float64Array]:
    try:
        found = parse_json(text)
    except FormatError as error:
        raise DatasetError(f"{file} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise DatasetError(f"{file}: expected a JSON object, found {short(found)}")
    poses = {}
    for name, value in found.items():
        try:
            pose = _Pose.model_validate(value)
        except ValidationError as error:  # one at a time: a list of all errors may fill the memory
            raise DatasetError(f"{file}: '{name[:80]}': {explain_invalid(error)}") from None
        if not _STAMP.fullmatch(name) or int(name) >= 2**63 or any(len(row) != 3 for row in pose.rotation):
            raise DatasetError(f"{file}: expected a stamp in nanoseconds with a rotation of 3 x 3, found '{name[:80]}'")
        poses[int(name)] = _matrix(file, name, np.array(pose.rotation), np.array(pose.position))
    return poses


def _from_tum(file: Path) -> dict[int, Float64Array]:
    poses: dict[int, Float64Array] = {}
    for number, line in enumerate(read_lines(file), 1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        place = f"{file} line {number}"
        refuse_over("poses", len(poses) + 1, "poses", lambda sentence: DatasetError(f"{file}: {sentence}"))
        try:
            if not _SECONDS.fullmatch(words[0]):
                raise ValueError
            seconds, _, fraction = words[0].partition(".")
            stamp = int(seconds) * 10**9 + int((fraction or "0")[:9].ljust(9, "0"))
            if stamp >= 2**63:
                raise ValueError
            values = np.array([float(word) for word in words[1:]])
        except ValueError:
            raise DatasetError(f"{place}: expected the numbers {_TUM}, found '{line[:80]}'") from None
        length = np.abs(values[3:]).max(initial=0)
        if not (len(values) == 7 and np.isfinite(values).all() and 1 / _LARGEST < length < _LARGEST):
            raise DatasetError(f"{place}: expected the numbers {_TUM}, found '{line[:80]}'")
        poses[stamp] = pose_matrix(values[:3].tolist(), values[3:].tolist())
    return poses


def _matrix(file: Path, place: str, rotation: Float64Array, position: Float64Array) -> Float64Array:
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > _ROTATION_ERROR or np.linalg.det(rotation) < 0:
        raise DatasetError(f"{file}: the rotation of {place} is no rotation: its rows are not orthonormal")
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, position
    return pose
