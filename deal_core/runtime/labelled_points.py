"""Clouds of labelled points from depth, colour and mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.runtime.camera_rays import measured, pixel_rays
from deal_core.structures import CameraIntrinsics, Float32Array, UInt8Array

if TYPE_CHECKING:
    from deal_core.runtime.segmenter import Segmentation

POINT = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<f4"), ("label", "<u2"), ("conf", "<f4")], align=True
)
"""One point: metres in the optical frame (z forward, x right, y down); the colour bits 0x00RRGGBB as a float, as in
PCL; the mask id; the confidence. It has 24 bytes, two of them padding after the label."""


def labelled_points(
    rgb: UInt8Array,
    depth: Float32Array,
    result: Segmentation,
    camera: CameraIntrinsics,
    *,
    stride: int = 1,
    near_m: float = 0.0,
    far_m: float = np.inf,
) -> npt.NDArray[Any]:
    """Return (N,) points of type `POINT` for every `stride`-th pixel with measured depth, row by row.

    They include background and unlabelled pixels.

    Args:
        rgb: (H, W, 3) uint8.
        depth: (H, W) float32 metres along the optical axis, 0 or nan where unknown.
        result: Mask and confidence, (H, W).
        camera: Camera of the colour image, to which depth is aligned; its size is H and W.
        stride: Step between rows and between columns.
        near_m: Smallest depth, in metres.
        far_m: Largest depth, in metres.

    Raises:
        CameraModelError: the distortion of the lens cannot be inverted.
    """
    every = np.s_[::stride, ::stride]
    depth = np.ascontiguousarray(depth[every])
    taken = np.flatnonzero(measured(depth, near_m, far_m))
    points = np.zeros(len(taken), POINT)  # zeros, since the padding is sent as well
    z = depth.ravel()[taken]
    points["z"] = z
    for axis, ray in zip("xy", pixel_rays(camera, stride), strict=True):
        points[axis] = ray.ravel()[taken] * z
    points["rgb"].view("<u4")[:] = _packed(rgb[every])[taken]
    points["label"] = result.mask[every].ravel()[taken]
    points["conf"] = result.confidence[every].ravel()[taken]
    return points


def _packed(rgb: UInt8Array) -> npt.NDArray[np.uint32]:
    """Return the pixels of (h, w, 3) as the bytes blue, green, red, 0."""
    opaque = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGRA)
    return opaque.view("<u4").ravel() & np.uint32(0xFFFFFF)
