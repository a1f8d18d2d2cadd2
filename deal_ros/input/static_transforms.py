"""Transforms between frames that never move, from the messages of /tf_static."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from deal_core.structures import Float64Array, pose_matrix


class StaticTransforms:
    """The last transform of each child frame."""

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, Float64Array]] = {}

    def add(self, transforms: Iterable[Any]) -> None:
        """Add geometry_msgs/TransformStamped messages; those that are not a transform are left out."""
        for message in transforms:
            matrix = _matrix(message.transform)
            if matrix is not None:
                self._parents[_name(message.child_frame_id)] = _name(message.header.frame_id), matrix

    def between(self, source: str, target: str) -> Float64Array | None:
        """Return the (4, 4) matrix that takes a point, metres, from `source` to `target`; None if it is not known."""
        to_ancestor = self._ancestors(_name(source))
        for ancestor, from_target in self._ancestors(_name(target)).items():
            if ancestor in to_ancestor:
                return np.linalg.inv(from_target) @ to_ancestor[ancestor]
        return None

    def _ancestors(self, frame: str) -> dict[str, Float64Array]:
        """Return the matrix from a frame to itself and to each frame above it, nearest first."""
        found = {frame: np.eye(4)}
        matrix = np.eye(4)
        while frame in self._parents:
            frame, to_parent = self._parents[frame]
            if frame in found:  # a circle is no tree
                break
            matrix = to_parent @ matrix
            found[frame] = matrix
        return found


def _name(frame: str) -> str:
    """A leading slash, which tf2 drops, does not count."""
    return frame.lstrip("/")


def _matrix(transform: Any) -> Float64Array | None:
    turn, shift = transform.rotation, transform.translation
    quaternion, place = np.array([turn.x, turn.y, turn.z, turn.w]), np.array([shift.x, shift.y, shift.z])
    length = float(quaternion @ quaternion)
    is_known = bool(np.isfinite(place).all()) and np.isfinite(length) and length > 0
    return pose_matrix(place.tolist(), quaternion.tolist()) if is_known else None
