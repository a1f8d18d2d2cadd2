"""The error of a stereo depth camera, put on exact depth.

An active stereo camera measures disparity, `d = focal * baseline / z`. An error of `s` pixels in disparity is an
error of `z^2 s / (focal * baseline)` in depth, so noise and quantisation both grow with the square of the
distance. What only one of the two imagers sees has no disparity at all: a band at the left edge of whatever stands
in front, when the second imager is to the right. Surfaces seen at a grazing angle and patches without texture
give no match either.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np

from deal_core.errors import ConfigError
from deal_core.structures import BoolArray, Float32Array, UInt16Array, metres_to_depth


@dataclass(frozen=True)
class StereoCamera:
    """The depth camera's properties; the defaults describe an Intel RealSense D435 at 848x480.

    Raises:
        ConfigError: a value out of its range.
    """

    baseline_m: float = 0.050
    """From the first imager to the second, which is to its right (metres); negative: to its left."""
    focal_px: float = 425.0
    """Focal length of the imagers, in their own pixels: the depth error does not depend on the output's size."""
    disparity_noise_px: float = 0.08
    """Standard deviation of the disparity error."""
    correlation_px: float = 1.0
    """Standard deviation of the Gaussian over which the error is smooth, in output pixels (the matching window)."""
    disparity_step_px: float = 1.0 / 32.0
    """Disparities are multiples of this."""
    edge_jitter_px: float = 0.5
    """Standard deviation of the raggedness of depth edges, in output pixels at a width of 320."""
    grazing_cosine: float = 0.25
    """Drop-outs begin where the cosine between view and surface normal falls below this, and are certain at 0."""
    hole_fraction: float = 0.01
    """Share of the image lost in random blobs."""
    min_depth_m: float = 0.2
    """Nothing nearer is measured."""
    max_depth_m: float = 6.0
    """Nothing farther is measured."""

    def __post_init__(self) -> None:
        at_least_zero = ("disparity_noise_px", "correlation_px", "edge_jitter_px", "grazing_cosine")
        for field in fields(self):
            value = getattr(self, field.name)
            if not np.isfinite(value):
                raise ConfigError(f"stereo camera: expected a finite {field.name}, found {value}")
            if field.name in at_least_zero and value < 0:
                raise ConfigError(f"stereo camera: expected {field.name} of at least 0, found {value}")
        if self.baseline_m == 0:
            raise ConfigError("stereo camera: expected a baseline_m other than 0: one imager measures no depth")
        if self.focal_px <= 0 or self.disparity_step_px <= 0:
            raise ConfigError(
                "stereo camera: expected focal_px and disparity_step_px above 0, "
                f"found {self.focal_px} and {self.disparity_step_px}"
            )
        if not 0 <= self.hole_fraction < 1:
            raise ConfigError(f"stereo camera: expected hole_fraction in [0, 1), found {self.hole_fraction}")
        if not 0 < self.min_depth_m < self.max_depth_m:
            raise ConfigError(
                "stereo camera: expected 0 < min_depth_m < max_depth_m, "
                f"found {self.min_depth_m} and {self.max_depth_m}"
            )


def measure_depth(
    depth: Float32Array,
    seen_by_both: BoolArray,
    view_cosine: Float32Array,
    camera: StereoCamera,
    rng: np.random.Generator,
) -> UInt16Array:
    """Return what the camera reports for exact depth.

    Args:
        depth: (H, W) exact depth along the optical axis, metres; 0 or infinite where there is nothing.
        seen_by_both: (H, W) whether the second imager sees the surface too.
        view_cosine: (H, W) cosine between the view ray and the surface normal, 0 (grazing) to 1.
        camera: the stereo camera.
        rng: the source of all chance here.

    Returns:
        (H, W) uint16 millimetres, 0 where nothing is measured.
    """
    shape = depth.shape
    seen, rough = _jitter_edges(depth, seen_by_both, camera.edge_jitter_px * shape[1] / 320.0, rng)
    usable = seen & (rough >= camera.min_depth_m) & (rough <= camera.max_depth_m)
    scale = np.float32(camera.focal_px * abs(camera.baseline_m))
    disparity = scale / np.where(usable, rough, np.float32(1.0))
    disparity += _smooth_noise(shape, camera.correlation_px, rng) * np.float32(camera.disparity_noise_px)
    step = np.float32(camera.disparity_step_px)
    disparity = np.rint(disparity / step) * step
    usable &= disparity > 0
    usable &= ~_grazing_dropouts(view_cosine, camera.grazing_cosine, rng)
    usable &= ~_blobs(shape, camera.hole_fraction, rng)
    measured = scale / np.where(usable, disparity, np.float32(1.0))
    return metres_to_depth(np.where(usable, measured, np.float32(0.0)))


def _jitter_edges(
    depth: Float32Array, seen: BoolArray, sigma: float, rng: np.random.Generator
) -> tuple[BoolArray, Float32Array]:
    """Look every pixel up a little beside itself: ragged at edges, without effect on smooth surfaces."""
    if sigma == 0:
        return seen.copy(), depth.copy()
    height, width = depth.shape
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    # Smooth offsets keep edges connected; whole pixels keep each value one that was really there.
    columns += np.rint(_smooth_noise(depth.shape, 1.0, rng) * np.float32(sigma))
    rows += np.rint(_smooth_noise(depth.shape, 1.0, rng) * np.float32(sigma))
    moved = cv2.remap(depth, columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    moved_seen = cv2.remap(seen.view(np.uint8), columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    # Only across edges: on a slope the neighbour's depth would be an error that no matching window makes.
    near_edge = _touches_edge(depth)
    return np.where(near_edge, moved_seen > 0, seen), np.where(near_edge, moved, depth)


def _touches_edge(depth: Float32Array) -> BoolArray:
    """Whether the depth in the 5x5 neighbourhood spans more than 2 % of itself beyond what a slope explains."""
    kernel = np.ones((3, 3), np.uint8)
    curvature = np.abs(cv2.Laplacian(depth, cv2.CV_32F, ksize=1, borderType=cv2.BORDER_REPLICATE))
    return cv2.dilate((curvature > 0.012 * depth).astype(np.uint8), kernel) > 0


def _smooth_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Float32Array:
    """Return Gaussian noise of standard deviation 1 whose neighbours are alike over `sigma` pixels."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    if sigma == 0:
        return noise
    kernel = cv2.getGaussianKernel(2 * int(np.ceil(3 * sigma)) + 1, sigma, cv2.CV_32F)
    smooth = cv2.sepFilter2D(noise, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)
    return smooth / np.float32(np.sum(kernel.astype(np.float64) ** 2))


def _grazing_dropouts(view_cosine: Float32Array, start: float, rng: np.random.Generator) -> BoolArray:
    if start == 0:
        return np.zeros(view_cosine.shape, bool)
    chance = 1.0 - np.clip(view_cosine / np.float32(start), 0.0, 1.0)
    return rng.random(view_cosine.shape, dtype=np.float32) < chance


def _blobs(shape: tuple[int, ...], fraction: float, rng: np.random.Generator) -> BoolArray:
    """Return connected patches over about `fraction` of the image."""
    if fraction == 0:
        return np.zeros(shape, bool)
    field = _smooth_noise(shape, max(1.0, shape[1] / 100.0), rng)
    return field > np.quantile(field[::2, ::2], 1.0 - fraction)
