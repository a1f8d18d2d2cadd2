"""Add the errors of a stereo depth camera to exact depth.

An active stereo camera measures disparity, `d = focal * baseline / z`. An error of `s` pixels in disparity is an
error of `z^2 s / (focal * baseline)` in depth, so noise and quantisation both grow with the square of the
distance. A surface that only one of the two imagers sees has no disparity: a band at the left edge of each object, if
the second imager is to the right. Surfaces at a grazing angle and patches without texture have no match, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from statistics import NormalDist

import cv2
import numpy as np

from deal_core.errors import ConfigError
from deal_core.structures import BoolArray, Float32Array, UInt16Array, metres_to_depth


@dataclass(frozen=True)
class StereoCamera:
    """The properties of the depth camera; the defaults describe an Intel RealSense D435 at 848x480.

    Raises:
        ConfigError: a value is out of range.
    """

    baseline_m: float = 0.050
    """Distance from the first imager to the second on its right, metres; negative is on its left."""
    focal_px: float = 425.0
    """Focal length in pixels of the imagers: the depth error does not depend on the output's size."""
    disparity_noise_px: float = 0.08
    """Standard deviation of the disparity error."""
    correlation_px: float = 1.0
    """Standard deviation of the Gaussian that smooths the error, in output pixels (the matching window)."""
    disparity_step_px: float = 1.0 / 32.0
    """Step of the disparity."""
    edge_jitter_px: float = 0.5
    """Standard deviation of the jitter of depth edges, in output pixels at a width of 320."""
    grazing_cosine: float = 0.25
    """Cosine between view and surface normal at which drop-outs begin; at 0 they are certain."""
    hole_fraction: float = 0.01
    """Share of the image in random holes."""
    min_depth_m: float = 0.2
    """Smallest measured depth."""
    max_depth_m: float = 6.0
    """Largest measured depth."""

    def __post_init__(self) -> None:
        at_least_zero = ("disparity_noise_px", "correlation_px", "edge_jitter_px", "grazing_cosine")
        for field in fields(self):
            value = getattr(self, field.name)
            if not np.isfinite(value):
                raise ConfigError(f"stereo camera: expected a finite {field.name}, found {value}")
            if field.name in at_least_zero and value < 0:
                raise ConfigError(f"stereo camera: expected {field.name} of at least 0, found {value}")
        if self.baseline_m == 0:
            raise ConfigError("stereo camera: expected a baseline_m other than 0: one imager cannot measure depth")
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


@dataclass(frozen=True)
class MatchFailures:
    """Where a stereo camera finds no match although both imagers see the surface.

    The defaults give RealSense frames of people and kitchens their share of pixels without depth (4 to 28 %) and of
    pixels without depth in the ring around near things (35 to 85 %).
    """

    window_px: float = 4.0
    """Width of the ring around near things, in which the matching window sees two depths; pixels at a width of 320."""
    ring_loss: float = 0.7
    """Share of the ring without depth."""
    ragged_px: float = 1.5
    """Standard deviation of the Gaussian that gives lost patches of the ring their size, pixels at a width of 320."""
    patch_px: float = 6.0
    """The same for lost patches of dark and shiny surfaces."""


def find_match_failures(
    depth: Float32Array, match_loss: Float32Array, failures: MatchFailures, rng: np.random.Generator
) -> BoolArray:
    """Return the (H, W) pixels at which the stereo camera finds no match.

    Args:
        depth: (H, W) exact depth along the optical axis, metres.
        match_loss: (H, W) share of pixels without a match on the surface seen there, 0..1.
        failures: properties of the camera.
        rng: random generator.
    """
    scale = depth.shape[1] / 320.0
    reach = 2 * max(1, round(failures.window_px * scale)) + 1
    window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    at_edge = cv2.dilate(_touches_edge(depth).astype(np.uint8), window) > 0
    ring = at_edge & (depth > np.float32(1.04) * cv2.erode(depth, window))
    # The noise is normal, so that its share of each loss lies below the quantile.
    lost = ring & (_smooth_noise(depth.shape, failures.ragged_px * scale, rng) < _quantile(failures.ring_loss))
    patches = _smooth_noise(depth.shape, failures.patch_px * scale, rng)
    for share in np.unique(match_loss[match_loss > 0]):
        lost |= (match_loss == share) & (patches < _quantile(float(share)))
    return lost


def _quantile(share: float) -> float:
    return NormalDist().inv_cdf(share) if 0 < share < 1 else math.copysign(math.inf, share - 0.5)


def measure_depth(
    depth: Float32Array,
    seen_by_both: BoolArray,
    view_cosine: Float32Array,
    camera: StereoCamera,
    rng: np.random.Generator,
) -> UInt16Array:
    """Return the depth image of the camera for exact depth.

    Args:
        depth: (H, W) exact depth along the optical axis, metres; 0 or infinite without a surface.
        seen_by_both: (H, W) whether the second imager sees the surface, too.
        view_cosine: (H, W) cosine between the view ray and the surface normal, 0 (grazing) to 1.
        camera: properties of the camera.
        rng: random generator.

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
    """Shift pixels near depth edges randomly, which makes the edges ragged."""
    if sigma == 0:
        return seen.copy(), depth.copy()
    height, width = depth.shape
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    # Smooth offsets keep edges connected; offsets of whole pixels keep real depth values.
    columns += np.rint(_smooth_noise(depth.shape, 1.0, rng) * np.float32(sigma))
    rows += np.rint(_smooth_noise(depth.shape, 1.0, rng) * np.float32(sigma))
    moved = cv2.remap(depth, columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    moved_seen = cv2.remap(seen.view(np.uint8), columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    # Only at edges: on a slope, the neighbour's depth would be an error that no matching window makes.
    near_edge = _touches_edge(depth)
    return np.where(near_edge, moved_seen > 0, seen), np.where(near_edge, moved, depth)


def _touches_edge(depth: Float32Array) -> BoolArray:
    """Return whether the 5x5 neighbourhood contains a depth edge, that is a curvature of over 1.2 % of the depth."""
    kernel = np.ones((3, 3), np.uint8)
    curvature = np.abs(cv2.Laplacian(depth, cv2.CV_32F, ksize=1, borderType=cv2.BORDER_REPLICATE))
    return cv2.dilate((curvature > 0.012 * depth).astype(np.uint8), kernel) > 0


def _smooth_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Float32Array:
    """Return Gaussian noise of standard deviation 1, smoothed over `sigma` pixels."""
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
