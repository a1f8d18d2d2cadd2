"""Poses of a camera from its images alone: visual odometry from frame to frame, by OpenCV."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.transforms import resize_sample
from deal_core.errors import UsageError
from deal_core.structures import CameraIntrinsics, Float64Array, Sample
from deal_core.taps.carry import View
from deal_core.taps.masks import recording_parts
from deal_core.views.warp import agreement

_WIDTH = 320
_CHAIN_M = 100.0
"""Distance between the worlds of two chains, of which nothing is known: nothing of one is seen from the other."""


@dataclass(frozen=True, eq=False)
class EstimatedPoses:
    """Poses of a recording.

    Attributes:
        poses: (4, 4) matrix from the camera to the world, by stamp in nanoseconds.
        chains: number of chains of frames whose poses are known relative to each other; each chain has a world of its
            own, far from the others.
        failed: number of pairs of neighbouring frames that do not fit each other, each of which begins a chain.
    """

    poses: dict[int, Float64Array]
    chains: int
    failed: int


def estimate_poses(dataset: Dataset, recording: str, *, advance: Callable[[], object] = lambda: None) -> EstimatedPoses:
    """Return the poses of a recording's camera by visual odometry.

    Each frame is registered with the one before by colour and depth (`cv2.Odometry`). The result is checked by depth: a
    pair that does not agree begins a new chain, as does a pause, in which things may have been moved. The errors of a
    chain add up: trust its poses over some seconds.

    Args:
        dataset: Frames with depth in metres.
        recording: Name of the recording.
        advance: Called after each frame.

    Raises:
        UsageError: the recording has no intrinsics, depth is not in metres, or OpenCV is older than 5.
        DatasetError: a file of a frame is missing or damaged.
        CameraModelError: the lens of the camera cannot be inverted.
    """
    camera = dataset.camera(recording)
    if camera is None:
        raise UsageError(f"{dataset.path}: {recording} has no camera.json, so nothing is known of its lens")
    if dataset.depth_kind != "metric" or not dataset.has_depth:
        raise UsageError(f"{dataset.path}: expected depth in metres, which a camera measured")
    if not hasattr(cv2, "OdometrySettings"):
        raise UsageError(f"expected OpenCV 5, which has visual odometry, found {cv2.__version__}: give a trajectory")
    frames, parts = dataset.subset([recording]).frames, recording_parts(dataset.frames)
    tracker = _Tracker(camera)
    poses: dict[int, Float64Array] = {}
    chains = failed = 0
    last: tuple[View, Any, str] | None = None
    for frame in frames:
        sample = _small(dataset.load(frame))
        seen = tracker.prepared(sample)
        pose = None
        if last and parts[last[2]] == parts[frame.key]:
            pose = tracker.next_pose(last[0].pose, last[1], seen)
            if pose is not None and agreement(last[0], View.of(sample, camera, pose)).is_wrong:
                pose = None
            failed += pose is None
        if pose is None:
            pose = np.eye(4)
            pose[0, 3] = chains * _CHAIN_M
            chains += 1
        poses[frame.stamp_ns] = pose
        last = View.of(sample, camera, pose), seen, frame.key
        advance()
    return EstimatedPoses(poses, chains, failed)


class _Tracker:
    """OpenCV's odometry of colour and depth for one camera.

    Args:
        camera: Intrinsics, of any size of the image.
    """

    def __init__(self, camera: CameraIntrinsics) -> None:
        self._camera = camera
        self._odometry: Any = None

    def prepared(self, sample: Sample) -> Any:
        """Return a frame for `next_pose`."""
        height, width = sample.depth.shape
        if self._odometry is None:
            lens = self._camera.resized(width, height)
            settings = cv2.OdometrySettings()
            settings.setCameraMatrix(np.array([[lens.fx, 0, lens.cx], [0, lens.fy, lens.cy], [0, 0, 1]], np.float32))
            self._odometry = cv2.Odometry(cv2.OdometryType_RGB_DEPTH, settings, cv2.OdometryAlgoType_COMMON)
        depth = np.where(sample.depth_valid, sample.depth, np.nan).astype(np.float32)
        frame = cv2.OdometryFrame(depth, cv2.cvtColor(sample.image, cv2.COLOR_RGB2GRAY))
        self._odometry.prepareFrame(frame)
        return frame

    def next_pose(self, pose: Float64Array, last: Any, now: Any) -> Float64Array | None:
        """Return the (4, 4) pose of a frame from that of the frame before; None if they cannot be registered."""
        found, motion = self._odometry.compute(last, now)  # takes points of the last frame to this one
        if not found or not np.isfinite(motion).all():
            return None
        return np.asarray(pose @ np.linalg.inv(np.asarray(motion, np.float64)))


def _small(sample: Sample) -> Sample:
    height, width = sample.depth.shape
    return resize_sample(sample, (max(round(height * _WIDTH / width), 1), _WIDTH)) if width > _WIDTH else sample
