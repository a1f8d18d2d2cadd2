"""An answer as images for a viewer, made at camera rate; `pictures` draws those of reports.

Example:
    >>> rgb = np.full((1, 3, 3), 100, np.uint8)
    >>> palette = np.zeros((256, 3), np.uint8)
    >>> palette[1], palette[255] = (200, 0, 0), 128
    >>> color_overlay(rgb, np.array([[0, 1, 255]], np.uint8), palette, alpha=0.5).tolist()
    [[[100, 100, 100], [150, 50, 50], [114, 114, 114]]]
"""

from __future__ import annotations

import cv2
import numpy as np

from deal_core.structures import Float32Array, UInt8Array


def color_overlay(rgb: UInt8Array, mask: UInt8Array, palette: UInt8Array, alpha: float) -> UInt8Array:
    """Return the image with its mask in colour: background as it is, classes tinted, unlabelled pixels greyed.

    Args:
        rgb: (H, W, 3) uint8.
        mask: (H, W) uint8 class ids.
        palette: (256, 3) RGB of every id, as `ClassList.palette` gives it.
        alpha: opacity of the colours, 0 (the image alone) to 1 (the colours alone).
    """
    colors = cv2.LUT(cv2.merge([mask, mask, mask]), palette[None])
    tinted = cv2.addWeighted(rgb, 1 - alpha, colors, alpha, 0)
    # Background is 0: the mask itself says which pixels to replace.
    return np.asarray(cv2.copyTo(tinted, mask, rgb.copy()), np.uint8)


def confidence_image(confidence: Float32Array) -> UInt8Array:
    """Return a confidence (H, W) in [0, 1] as (H, W) uint8, rounded, 255 for 1."""
    return np.asarray(cv2.convertScaleAbs(confidence, alpha=255), np.uint8)
