"""Small pictures of colour and depth side by side."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.drawing import depth_picture
from deal_core.structures import UInt8Array


def thumbnail_jpeg(image: UInt8Array, depth: npt.NDArray[np.floating], height: int) -> bytes:
    """Return a JPEG of an image with its depth beside it.

    Args:
        image: (H, W, 3) RGB.
        depth: (H, W) metres, 0 where nothing was measured.
        height: height of the JPEG in pixels; its width is twice that of the image at this height.
    """
    size = (max(round(image.shape[1] * height / image.shape[0]), 1), height)
    color = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    # Depth is not averaged: between an object and its background there is no surface.
    colored = depth_picture(cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST).astype(np.float32))
    both = cv2.cvtColor(np.hstack([color, colored]), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", both, (cv2.IMWRITE_JPEG_QUALITY, 85))[1].tobytes()
