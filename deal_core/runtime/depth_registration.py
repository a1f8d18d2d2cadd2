"""Register depth images to the colour camera, for depth cameras whose driver does not align them.

A depth pixel is a small square that the colour camera sees: the colour pixels that it covers get its depth, and of
several depths the nearest stays, as in the align block of the RealSense SDK. A square smaller than a colour pixel gives
its depth to the pixel of its centre; the SDK takes the pixel of its upper left corner. The SDK keeps the distance to
the depth camera; here it becomes the distance to the colour camera.

Example:
    >>> camera = CameraIntrinsics(width=4, height=2, fx=1.0, fy=1.0, cx=1.5, cy=0.0)
    >>> two_to_the_left = np.eye(4)
    >>> two_to_the_left[0, 3] = -2
    >>> register = DepthRegistration(camera, camera, two_to_the_left)
    >>> register(np.array([[0.0, 0.0, 2.0, 4.0], [0.0, 0.0, 0.0, 0.0]], np.float32)).tolist()
    [[0.0, 2.0, 0.0, 4.0], [0.0, 0.0, 0.0, 0.0]]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from deal_core.runtime.camera_rays import CameraModelError, pixel_rays
from deal_core.structures import CameraIntrinsics, Float32Array, Float64Array, valid_depth

IndexArray = npt.NDArray[np.intp]
_Distort = Callable[[Float32Array, Float32Array], tuple[Float32Array, Float32Array]]


class DepthRegistration:
    """Registers the depth images of one pair of cameras.

    Args:
        depth: the depth camera.
        color: the colour camera.
        depth_to_color: (4, 4) matrix that takes a point in the optical frame of the depth camera, metres, to that of
            the colour camera.

    Raises:
        CameraModelError: a distortion model is not supported, or that of a camera cannot be inverted.
    """

    def __init__(self, depth: CameraIntrinsics, color: CameraIntrinsics, depth_to_color: Float64Array) -> None:
        self._shape, self._color = (depth.height, depth.width), color
        self._distort = _distortion(color)
        rotation, self._shift = depth_to_color[:3, :3], depth_to_color[:3, 3].astype(np.float32)
        scale = max(color.fx / depth.fx, color.fy / depth.fy)
        # A point beside the colour camera may have a larger footprint; what it covers is not seen from there.
        self._largest = 2 * math.ceil(scale) + 2
        center = _rotated_rays(depth, rotation)
        self._forward = center[2]
        # The centre of pixel (column, row) has these coordinates: its corners are half a pixel away.
        corners = (replace(depth, cx=depth.cx + half, cy=depth.cy + half) for half in (0.5, -0.5) if scale > 1)
        self._boxes = [_rotated_rays(corner, rotation) for corner in corners] or [center]

    def __call__(self, depth_m: Float32Array) -> Float32Array:
        """Return the depth of each colour pixel.

        Args:
            depth_m: (H, W) metres of the depth camera, 0 or nan where nothing was measured.

        Returns:
            (H, W) of the colour camera, float32 metres along its optical axis, 0 where nothing was measured.

        Raises:
            CameraModelError: the image has another size than the depth camera.
        """
        if depth_m.shape != self._shape:
            found, expected = (f"{shape[1]}x{shape[0]}" for shape in (depth_m.shape, self._shape))
            raise CameraModelError(f"expected the camera of the depth image ({found}), found {expected}")
        depth = np.where(valid_depth(depth_m), depth_m, np.float32(0)).reshape(-1)
        with np.errstate(all="ignore"):  # of points beside the camera, which are left out
            ends = [self._project(rays, depth) for rays in self._boxes]
            (left, top), (right, bottom) = ends[0], ends[-1]
            wide, high = right - left, bottom - top
            ahead = depth * self._forward + self._shift[2]
            is_seen = (depth > 0) & (ahead > 0) & (left >= 0) & (top >= 0)
            is_seen &= (right < self._color.width) & (bottom < self._color.height)
            is_seen &= (wide >= 0) & (wide < self._largest) & (high >= 0) & (high < self._largest)
        corner = top * np.float32(self._color.width) + left  # exact below 2^24
        boxes = (np.where(is_seen, value, 0).astype(np.intp) for value in (corner, wide, high))
        return self._paint(np.where(is_seen, ahead, np.inf), *boxes)

    def _project(self, rays: Float32Array, depth: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Return the nearest column and row of a point on each ray, as whole float32 numbers."""
        x, y, z = (depth * ray + shift for ray, shift in zip(rays, self._shift, strict=True))
        x, y = x / z, y / z
        if self._distort is not None:
            x, y = self._distort(x, y)
        camera = self._color
        column = np.floor(x * np.float32(camera.fx) + np.float32(camera.cx + 0.5))
        row = np.floor(y * np.float32(camera.fy) + np.float32(camera.cy + 0.5))
        return column, row

    def _paint(self, depth: Float32Array, corner: IndexArray, wide: IndexArray, high: IndexArray) -> Float32Array:
        """Give all pixels of each box its depth, the nearest where boxes overlap; 0 where there is none.

        Args:
            depth: metres; infinite for a box that is not painted.
            corner: the index of a box's upper left pixel in the flat image.
            wide: number of further columns of the box.
            high: number of further rows.
        """
        height, width = self._color.height, self._color.width
        columns, rows = int(wide.max(initial=0)) + 1, int(high.max(initial=0)) + 1
        # One image for the corners of each size of box. A larger box is a smaller one and itself one pixel further.
        nearest = np.full(rows * columns * height * width, np.inf, np.float32)
        np.minimum.at(nearest, (high * columns + wide) * (height * width) + corner, depth)
        images = nearest.reshape(rows, columns, height, width)
        for column in range(columns - 1, 0, -1):
            larger, smaller = images[:, column], images[:, column - 1]
            np.minimum(smaller, larger, out=smaller)
            np.minimum(smaller[..., 1:], larger[..., :-1], out=smaller[..., 1:])
        for row in range(rows - 1, 0, -1):
            higher, lower = images[row, 0], images[row - 1, 0]
            np.minimum(lower, higher, out=lower)
            np.minimum(lower[1:], higher[:-1], out=lower[1:])
        return np.where(np.isfinite(images[0, 0]), images[0, 0], np.float32(0))


def _rotated_rays(camera: CameraIntrinsics, rotation: Float64Array) -> Float32Array:
    """Return (3, H * W): the points at distance 1 along the optical axis that the pixels' centres see, rotated."""
    right, down = (part.reshape(-1) for part in pixel_rays(camera))
    return (rotation @ np.stack([right, down, np.ones_like(right)])).astype(np.float32)


def _distortion(camera: CameraIntrinsics) -> _Distort | None:
    """Return what a lens does to x/z and y/z, for the models of sensor_msgs/CameraInfo; None if it does nothing.

    Raises:
        CameraModelError: as of `pixel_rays`.
    """
    if not any(camera.distortion):
        return None
    pixel_rays(camera)  # refuses what cannot be inverted, as everything that uses the colour camera does
    k = [np.float32(value) for value in (*camera.distortion, *[0.0] * 14)][:14]
    return partial(_fisheye if camera.distortion_model == "equidistant" else _polynomial, k)


def _polynomial(k: Sequence[np.float32], x: Float32Array, y: Float32Array) -> tuple[Float32Array, Float32Array]:
    """plumb_bob and rational_polynomial, with the thin prism of 12 coefficients."""
    xx, yy, xy = x * x, y * y, x * y
    r = xx + yy
    radial = 1 + r * (k[0] + r * (k[1] + r * k[4]))
    if any(k[5:8]):
        radial /= 1 + r * (k[5] + r * (k[6] + r * k[7]))
    distorted_x = x * radial + 2 * k[2] * xy + k[3] * (r + 2 * xx) + r * (k[8] + r * k[9])
    distorted_y = y * radial + 2 * k[3] * xy + k[2] * (r + 2 * yy) + r * (k[10] + r * k[11])
    return distorted_x, distorted_y


def _fisheye(k: Sequence[np.float32], x: Float32Array, y: Float32Array) -> tuple[Float32Array, Float32Array]:
    radius = np.maximum(np.hypot(x, y), np.float32(1e-8))
    angle = np.arctan(radius)
    square = angle * angle
    bent = angle * (1 + square * (k[0] + square * (k[1] + square * (k[2] + square * k[3]))))
    return x * (bent / radius), y * (bent / radius)
