"""Undistorted rays of the pixels of a camera, which turn depth into points.

Example:
    >>> camera = CameraIntrinsics(width=4, height=2, fx=2.0, fy=2.0, cx=1.0, cy=0.0)
    >>> right, down = pixel_rays(camera)
    >>> right.tolist(), down.tolist()
    ([[-0.5, 0.0, 0.5, 1.0], [-0.5, 0.0, 0.5, 1.0]], [[0.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]])
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.errors import DealError
from deal_core.runtime.sampling import sample_indices
from deal_core.structures import BoolArray, CameraIntrinsics, Float32Array, valid_depth

DISTORTION_MODELS = ("plumb_bob", "rational_polynomial", "equidistant")
"""Supported distortion models, named as in sensor_msgs/CameraInfo."""

Float64Array = npt.NDArray[np.float64]

_COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}
_UNTIL = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 50, 1e-3)  # iterations, pixels
_LARGEST_ERROR_PX = 0.1


class CameraModelError(DealError):
    """A camera model whose distortion cannot be inverted."""


@lru_cache(maxsize=4)
def pixel_rays(camera: CameraIntrinsics, stride: float = 1) -> Float32Array:
    """Return x/z and y/z of the centre of every `stride`-th pixel in the optical frame; cached per camera.

    Args:
        camera: Size and lens; the centre of pixel (column, row) has these integer coordinates.
        stride: Step between rows and between columns, at least 1; see `deal_core.runtime.sampling`.

    Returns:
        (2, h, w) float32, read-only; h and w are ceil(H / stride) and ceil(W / stride) for a whole stride.

    Raises:
        CameraModelError: the distortion model is unknown, has another number of coefficients, or cannot be inverted.
    """
    columns, rows = np.meshgrid(*(sample_indices(n, stride).astype(float) for n in (camera.width, camera.height)))
    right, down = (columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy
    if any(camera.distortion):
        right, down = _undistorted(columns, rows, camera)
    rays = np.stack([right, down]).astype(np.float32)
    rays.flags.writeable = False
    return rays


def project(rays: Float64Array, camera: CameraIntrinsics) -> Float64Array:
    """Return column and row (..., 2) of the image of each ray (..., 2), given as x/z and y/z; with the distortion.

    Raises:
        CameraModelError: the distortion model is unknown, or has another number of coefficients.
    """
    if not any(camera.distortion):
        return rays * (camera.fx, camera.fy) + (camera.cx, camera.cy)
    coefficients = _coefficients(camera)
    found = _project(rays.reshape(-1, 1, 2), _matrix(camera), coefficients, camera.distortion_model)
    return found.reshape(rays.shape)


def measured(depth: Float32Array, near_m: float, far_m: float) -> BoolArray:
    """Return the mask of valid depth (metres; 0, nan or infinite where unknown) in [near_m, far_m]."""
    return valid_depth(depth) & (depth >= near_m) & (depth <= far_m)


def _undistorted(columns: Float64Array, rows: Float64Array, camera: CameraIntrinsics) -> Float64Array:
    model, coefficients, matrix = camera.distortion_model, _coefficients(camera), _matrix(camera)
    pixels = np.stack([columns.ravel(), rows.ravel()], axis=-1)[:, None]
    # Beyond some radius, a polynomial distortion is not monotonic, so two directions share a pixel. The border is the
    # first place where this occurs; a check of every pixel would take a second.
    outer = np.isin(columns, [0, columns[-1, -1]]) | np.isin(rows, [0, rows[-1, -1]])
    border = pixels[outer.ravel()]
    error = _project(_undistort(border, matrix, coefficients, model), matrix, coefficients, model) - border
    if not (np.abs(error) <= _LARGEST_ERROR_PX).all():
        raise CameraModelError(
            f"expected a distortion that can be inverted over the whole image, found {model} with "
            f"{list(camera.distortion)}, which cannot be inverted at the border"
        )
    return _undistort(pixels, matrix, coefficients, model).T.reshape(2, *rows.shape)


def _coefficients(camera: CameraIntrinsics) -> Float64Array:
    model, coefficients = camera.distortion_model, np.array(camera.distortion)
    if model not in DISTORTION_MODELS:
        raise CameraModelError(f"expected a distortion model of {', '.join(DISTORTION_MODELS)}; found '{model}'")
    if len(coefficients) not in _COEFFICIENTS[model]:
        expected = " or ".join(map(str, _COEFFICIENTS[model]))
        raise CameraModelError(f"expected {expected} coefficients of {model}, found {len(coefficients)}")
    return coefficients


def _matrix(camera: CameraIntrinsics) -> Float64Array:
    return np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])


def _undistort(pixels: Float64Array, matrix: Float64Array, coefficients: Float64Array, model: str) -> Float64Array:
    if model == "equidistant":
        return np.asarray(cv2.fisheye.undistortPoints(pixels, matrix, coefficients, criteria=_UNTIL))
    # OpenCV 4 has a second function with criteria, and OpenCV 5 only one: without criteria, it stops too early.
    undistort = getattr(cv2, "undistortPointsIter", cv2.undistortPoints)
    return np.asarray(undistort(pixels, matrix, coefficients, R=None, P=None, criteria=_UNTIL))


def _project(rays: Float64Array, matrix: Float64Array, coefficients: Float64Array, model: str) -> Float64Array:
    if model == "equidistant":
        return np.asarray(cv2.fisheye.distortPoints(rays, matrix, coefficients))
    space, still = cv2.convertPointsToHomogeneous(rays), np.zeros(3)
    return np.asarray(cv2.projectPoints(space, still, still, matrix, coefficients)[0])
