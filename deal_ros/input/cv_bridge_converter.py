"""Rare encodings through cv_bridge, where it loads."""

from __future__ import annotations

import functools
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.recording.image_encodings import RARE_ENCODINGS, RareConverter, RosbagsConverter, inconvertible
from deal_core.structures import UInt8Array
from deal_ros.input import optional_libraries

# Its name of each encoding. It has no 4:2:0; `uyvy` and `yuyv` are newer names of two that it has.
_NAMES = {name: name for name, layout in RARE_ENCODINGS.items() if layout.share != (2, 2)}
_NAMES |= {"uyvy": "yuv422", "yuyv": "yuv422_yuy2"}


class BridgeConverter:
    """Converts by cv_bridge what it has in every distribution: all of `RARE_ENCODINGS` but 4:2:0."""

    encodings: Collection[str] = _NAMES

    def __init__(self) -> None:
        from cv_bridge import CvBridge

        self._bridge = CvBridge()

    def to_rgb(self, pixels: npt.NDArray[Any], encoding: str) -> UInt8Array:
        """Return (H, W, 3) uint8 RGB.

        Raises:
            ImageFormatError: cv_bridge refuses the image.
        """
        height, width = pixels.shape[:2]
        # Rows without padding, in native order: cv_bridge misreads odd steps, and foreign order beside numpy 2.
        image = SimpleNamespace(
            height=height,
            width=width,
            encoding=_NAMES[encoding],
            is_bigendian=0,
            step=pixels.nbytes // height,
            data=pixels.reshape(-1).view(np.uint8),
        )
        try:
            return np.asarray(self._bridge.imgmsg_to_cv2(image, "rgb8"), np.uint8)
        except (cv2.error, RuntimeError, TypeError, ValueError) as error:  # its own CvBridgeError is a TypeError
            raise inconvertible(pixels, encoding, error) from error


@functools.cache
def rare_converters() -> tuple[RareConverter, ...]:
    """Return what converts rare encodings here, the preferred one first."""
    return (
        (BridgeConverter(), RosbagsConverter()) if optional_libraries.cv_bridge().is_usable else (RosbagsConverter(),)
    )
