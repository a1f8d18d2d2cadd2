"""Poses of a moving body over time, between and shortly after those that were measured."""

from __future__ import annotations

from collections import deque

from deal_core.recording.transforms import pose_between
from deal_core.structures import Float64Array

_LONGEST_GAP_NS = 500_000_000
"""Time between two poses above which nothing is known of the motion between them."""
_AHEAD_NS = 50_000_000
"""Time after the last pose for which the motion is assumed to go on."""


class PoseTrack:
    """The last poses of a body.

    Args:
        length: Number of poses to keep.
    """

    def __init__(self, length: int = 200) -> None:
        self._poses: deque[tuple[int, Float64Array]] = deque(maxlen=length)

    def add(self, stamp_ns: int, pose: Float64Array) -> None:
        """Add a (4, 4) pose; a pose that is not later than the last one begins a new track."""
        if self._poses and stamp_ns <= self._poses[-1][0]:
            self._poses.clear()
        self._poses.append((stamp_ns, pose))

    def at(self, stamp_ns: int) -> Float64Array | None:
        """Return the (4, 4) pose at a time, moving steadily between two poses; None where it is not known.

        It is known between two poses at most 0.5 s apart, and up to 50 ms after the last one.
        """
        poses = list(self._poses)
        for before, after in zip(reversed(poses[:-1]), reversed(poses[1:]), strict=True):
            if before[0] <= stamp_ns <= after[0] + (_AHEAD_NS if after is poses[-1] else 0):
                return _between(before, after, stamp_ns)
        return poses[0][1] if len(poses) == 1 and poses[0][0] == stamp_ns else None


def _between(before: tuple[int, Float64Array], after: tuple[int, Float64Array], stamp_ns: int) -> Float64Array | None:
    gap_ns = after[0] - before[0]
    if gap_ns > _LONGEST_GAP_NS:
        return None
    return pose_between(before[1], after[1], (stamp_ns - before[0]) / gap_ns)
