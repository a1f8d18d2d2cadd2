"""Courses of a hand-held camera."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from deal_core.structures import Float32Array
from deal_core.synthetic.scene import CameraPose


def between(ends: tuple[float, float], unit: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Map numbers in [-1, 1] to the range between two ends."""
    return ends[0] + (ends[1] - ends[0]) * (unit + 1) / 2


def wander(time: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return a smooth random course within [-1, 1]."""
    start, sweep = rng.uniform(-1, 1), rng.uniform(0.5, 2.5)
    # A triangle wave is uniform over the range; a sine would stay near its ends.
    phase = start + sweep * (1 if rng.random() < 0.5 else -1) * time
    return 1 - 2 * np.abs(((phase + 1) / 2) % 2 - 1)


def look_at(
    target: npt.NDArray[np.float64], azimuth: float, elevation: float, distance: float, roll: float
) -> CameraPose:
    """Return the pose of a camera that looks at a target; azimuth 0 is the world's -y side."""
    towards_camera = spherical(azimuth - math.pi / 2, elevation).astype(np.float64)
    forward = -towards_camera
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cos, sin = math.cos(roll), math.sin(roll)
    columns = np.stack([cos * right + sin * down, -sin * right + cos * down, forward], axis=1)
    return CameraPose(columns.astype(np.float32), (target + distance * towards_camera).astype(np.float32))


def spherical(azimuth: float, elevation: float) -> Float32Array:
    """Return the unit vector of an azimuth and an elevation, radians."""
    flat = math.cos(elevation)
    return np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)], np.float32)
