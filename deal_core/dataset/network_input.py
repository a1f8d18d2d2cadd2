"""Images and depth as the input arrays of a network, at its size; needs numpy and OpenCV alone."""

from __future__ import annotations

import cv2
import numpy as np

from deal_core.structures import Float32Array, UInt8Array


def image_to_input(image: UInt8Array) -> Float32Array:
    """Return an image (H, W, 3) as (3, H, W) float32 RGB in [0, 1]."""
    # numpy is faster here: threads of PyTorch wait for each other (16 ms beside a busy core) longer than they work.
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    return np.divide(planes, np.float32(255), dtype=np.float32)


def depth_to_input(depth: Float32Array | None, size: tuple[int, int]) -> Float32Array:
    """Return depth (H, W) in metres as network input (1, *size): 0 where unknown, all 0 for None."""
    if depth is None:
        return np.zeros((1, *size), np.float32)
    sized = resize_nearest(depth, size)
    return np.where(sized > 0, sized, np.float32(0))[None]


def resize_image(image: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    """Return an image (H, W, 3) at `size` (height, width): by area if it shrinks, else bilinearly."""
    if image.shape[:2] == size:
        return image
    height, width = size
    method = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method)


def resize_nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an array (H, W) at `size` (height, width), by nearest neighbour."""
    return cv2.resize(array, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
