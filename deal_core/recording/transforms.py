"""A tree of frames over time: what `/tf` and `/tf_static` say, looked up at any stamp."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from deal_core.structures import Float64Array, pose_matrix

LONGEST_GAP_NS = 1_000_000_000
"""Time between two transforms above which nothing is known of the motion between them."""


def pose_between(before: Float64Array, after: Float64Array, share: float) -> Float64Array:
    """Return the (4, 4) pose at a share of the way from one pose to another.

    The position moves on a line, and the rotation turns steadily about one axis (slerp).

    >>> quarter = pose_matrix((2, 0, 0), (0, 0, 1, 1))
    >>> pose_between(np.eye(4), quarter, 0.5)[:3, 3].tolist()
    [1.0, 0.0, 0.0]
    """
    turn = np.asarray(cv2.Rodrigues(before[:3, :3].T @ after[:3, :3])[0])
    pose = np.eye(4)
    pose[:3, :3] = before[:3, :3] @ np.asarray(cv2.Rodrigues(share * turn)[0])
    pose[:3, 3] = (1 - share) * before[:3, 3] + share * after[:3, 3]
    return pose


def pose_of(translation: Any, rotation: Any) -> Float64Array | None:
    """Return the (4, 4) matrix of the parts of a ROS message; None if they are no pose.

    Args:
        translation: Something with x, y and z, metres.
        rotation: Something with x, y, z and w, a quaternion of any length above 0.
    """
    place = np.array([translation.x, translation.y, translation.z], np.float64)
    turn = np.array([rotation.x, rotation.y, rotation.z, rotation.w], np.float64)
    with np.errstate(over="ignore"):
        length = float(turn @ turn)
    is_pose = bool(np.isfinite(place).all()) and np.isfinite(length) and length > 0
    return pose_matrix(place.tolist(), turn.tolist()) if is_pose else None


def frame_name(frame: str) -> str:
    """Return the name of a frame as tf2 has it: a leading slash does not count."""
    return frame.lstrip("/")


class _Sample(NamedTuple):
    """A frame's pose in its parent at a time."""

    stamp_ns: int
    parent: str
    pose: Float64Array


class PoseSamples:
    """Poses of a frame in its parents over time, which are looked up at stamps that are known before.

    Between two neighbouring stamps, only the first and the last pose are kept: memory grows with the stamps.

    Args:
        wanted: Sorted stamps at which `at` will be asked, nanoseconds.
    """

    def __init__(self, wanted: Sequence[int]) -> None:
        self._wanted = wanted
        self._samples: list[_Sample] = []

    def __len__(self) -> int:
        """Return the number of kept poses."""
        return len(self._samples)

    def add(self, stamp_ns: int, parent: str, pose: Float64Array) -> None:
        """Add a pose; of two with one stamp, the later added counts."""
        new, at = _Sample(stamp_ns, parent, pose), self._place(stamp_ns)
        slot = self._slot(stamp_ns)
        before, after = (self._samples[i] if 0 <= i < len(self._samples) else None for i in (at - 1, at))
        if after and after.stamp_ns == stamp_ns:
            self._samples[at] = new
        elif not (before and self._slot(before.stamp_ns) == slot):
            self._samples.insert(at, new)  # the first between two stamps
        elif not (after and self._slot(after.stamp_ns) == slot):
            is_first = at < 2 or self._slot(self._samples[at - 2].stamp_ns) != slot
            self._samples[at - 1 + is_first : at] = [new]  # the last one so far

    def at(self, stamp_ns: int) -> tuple[str, Float64Array] | None:
        """Return the parent and the (4, 4) pose in it at one of the stamps; None if it is not known.

        It is known between two poses in one parent at most `LONGEST_GAP_NS` apart.
        """
        after = self._place(stamp_ns)
        if after == len(self._samples):
            return None
        right = self._samples[after]
        if right.stamp_ns == stamp_ns:
            return right.parent, right.pose
        left = self._samples[after - 1] if after else right
        gap_ns = right.stamp_ns - left.stamp_ns
        if left.parent != right.parent or not 0 < gap_ns <= LONGEST_GAP_NS:
            return None
        return right.parent, pose_between(left.pose, right.pose, (stamp_ns - left.stamp_ns) / gap_ns)

    def _place(self, stamp_ns: int) -> int:
        return bisect_left(self._samples, stamp_ns, key=lambda sample: sample.stamp_ns)

    def _slot(self, stamp_ns: int) -> int:
        """Return the number of wanted stamps before a stamp."""
        return bisect_left(self._wanted, stamp_ns)


class TransformTree:
    """Transforms between frames, which are looked up at stamps that are known before.

    Args:
        wanted: Stamps at which `at` will be asked, nanoseconds.
    """

    def __init__(self, wanted: Sequence[int]) -> None:
        self._wanted = sorted(wanted)
        self._static: dict[str, tuple[str, Float64Array]] = {}
        self._moving: dict[str, PoseSamples] = {}

    def add(self, parent: str, child: str, stamp_ns: int, pose: Float64Array, *, is_static: bool = False) -> None:
        """Add a transform.

        Args:
            parent: Name of the frame in which the pose is given.
            child: Name of the frame whose pose it is.
            stamp_ns: Time at which it holds, nanoseconds.
            pose: (4, 4) matrix that takes points from the child's frame to the parent's.
            is_static: Whether it holds always; the last one counts then.
        """
        parent, child = frame_name(parent), frame_name(child)
        if is_static:
            self._static[child] = parent, pose
        else:
            self._moving.setdefault(child, PoseSamples(self._wanted)).add(stamp_ns, parent, pose)

    def at(self, target: str, source: str, stamp_ns: int) -> Float64Array | None:
        """Return the (4, 4) matrix that takes points from `source` to `target` at a time; None if it is not known.

        Between two transforms of a frame, its position moves on a line and its rotation turns steadily.

        Args:
            target: Name of the frame to go to.
            source: Name of the frame to come from.
            stamp_ns: One of the stamps that were named, nanoseconds.
        """
        from_source = dict(self._upwards(frame_name(source), stamp_ns))
        for ancestor, from_target in self._upwards(frame_name(target), stamp_ns):
            if ancestor in from_source:
                return np.asarray(np.linalg.inv(from_target) @ from_source[ancestor])
        return None

    def above(self, frame: str, stamp_ns: int) -> dict[str, bool]:
        """Return the frames above a frame at a time, nearest first, and whether the frame can move in each of them."""
        found: dict[str, bool] = {}
        below, moves = frame_name(frame), False
        for ancestor, _ in self._upwards(below, stamp_ns):
            if ancestor != below:
                found[ancestor] = moves = moves or below not in self._static
                below = ancestor
        return found

    def _upwards(self, frame: str, stamp_ns: int) -> Iterator[tuple[str, Float64Array]]:
        """Yield a frame and each frame above it, with the matrix from the first one to it."""
        matrix, seen = np.eye(4), {frame}
        yield frame, matrix
        while (found := self._step(frame, stamp_ns)) and found[0] not in seen:  # a circle is no tree
            frame, to_parent = found
            seen.add(frame)
            matrix = to_parent @ matrix
            yield frame, matrix

    def _step(self, frame: str, stamp_ns: int) -> tuple[str, Float64Array] | None:
        if frame in self._static:
            return self._static[frame]
        return self._moving[frame].at(stamp_ns) if frame in self._moving else None
