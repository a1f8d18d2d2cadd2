"""Clouds of labelled points from depth, colour and mask."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.runtime.camera_rays import measured, pixel_rays
from deal_core.runtime.sampling import sampled
from deal_core.structures import BoolArray, CameraIntrinsics, Float32Array, UInt8Array

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
    stride: float = 1,
    near_m: float = 0.0,
    far_m: float = np.inf,
    ids: Set[int] | None = None,
    organized: bool = False,
) -> npt.NDArray[Any]:
    """Return points of type `POINT` for every `stride`-th pixel of every `stride`-th row.

    Args:
        rgb: (H, W, 3) uint8.
        depth: (H, W) float32 metres along the optical axis, 0 or nan where unknown.
        result: Mask and confidence, (H, W).
        camera: Camera of the colour image, to which depth is aligned; its size is H and W.
        stride: Step between rows and between columns, at least 1; see `deal_core.runtime.sampling`.
        near_m: Smallest depth, in metres.
        far_m: Largest depth, in metres.
        ids: Mask ids whose pixels become points; None for all, background and unlabelled included.
        organized: Whether the cloud keeps the rows and columns of the image. Then x, y and z are nan where there is no
            measured depth in the range or the id is not wanted; otherwise such pixels give no point.

    Returns:
        (N,), row by row; (h, w) if organized, as `pixel_rays` has them.

    Raises:
        CameraModelError: the distortion of the lens cannot be inverted.
    """
    depth = np.ascontiguousarray(sampled(depth, stride))
    mask = np.ascontiguousarray(sampled(result.mask, stride))
    is_point = measured(depth, near_m, far_m) & _wanted(mask, ids)
    shape: tuple[int, ...] = mask.shape
    pick: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] = _all
    if not organized:
        taken = np.flatnonzero(is_point)
        shape, pick = taken.shape, lambda image: image.ravel()[taken]
    points = np.zeros(shape, POINT)  # zeros, since the padding is sent as well
    z = np.where(is_point, depth, np.float32(np.nan)) if organized else pick(depth)
    points["z"] = z
    points["x"], points["y"] = (pick(ray) * z for ray in pixel_rays(camera, stride))
    points["rgb"].view("<u4")[:] = pick(_packed(sampled(rgb, stride)))
    points["label"], points["conf"] = pick(mask), pick(sampled(result.confidence, stride))
    return points


def _all(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return image


def _wanted(mask: UInt8Array, ids: Set[int] | None) -> BoolArray:
    """Return where the id of a mask is among `ids`."""
    if ids is None:
        return np.ones(mask.shape, np.bool_)
    table = np.zeros(256, np.uint8)
    table[list(ids)] = 1
    return np.asarray(cv2.LUT(mask, table)).view(np.bool_)


def _packed(rgb: UInt8Array) -> npt.NDArray[np.uint32]:
    """Return the pixels of (h, w, 3) as (h, w) of the bytes blue, green, red, 0."""
    opaque = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGRA)
    return opaque.view("<u4")[..., 0] & np.uint32(0xFFFFFF)
