"""Convert rare image encodings with cv_bridge, if it can be loaded."""

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

# cv_bridge's name of each encoding. It lacks 4:2:0; `uyvy` and `yuyv` are newer names of two of its encodings.
_NAMES = {name: name for name, layout in RARE_ENCODINGS.items() if layout.share != (2, 2)}
_NAMES |= {"uyvy": "yuv422", "yuyv": "yuv422_yuy2"}


class BridgeConverter:
    """Converts the encodings that cv_bridge has in every ROS distribution: all `RARE_ENCODINGS` except 4:2:0."""

    encodings: Collection[str] = _NAMES

    def __init__(self) -> None:
        from cv_bridge import CvBridge

        self._bridge = CvBridge()

    def to_rgb(self, pixels: npt.NDArray[Any], encoding: str) -> UInt8Array:
        """Convert decoded pixels to (H, W, 3) uint8 RGB.

        Raises:
            ImageFormatError: cv_bridge cannot convert the image.
        """
        height, width = pixels.shape[:2]
        # Rows without padding, in native byte order: cv_bridge misreads odd steps, and swapped bytes with numpy 2.
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
        except (cv2.error, RuntimeError, TypeError, ValueError) as error:  # CvBridgeError is a TypeError
            raise inconvertible(pixels, encoding, error) from error


@functools.cache
def rare_converters() -> tuple[RareConverter, ...]:
    """Return the converters of rare encodings that work here, in order of preference."""
    return (
        (BridgeConverter(), RosbagsConverter()) if optional_libraries.cv_bridge().is_usable else (RosbagsConverter(),)
    )
