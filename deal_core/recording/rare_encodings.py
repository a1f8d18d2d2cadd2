"""Colour encodings beyond the common ones, through a library."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.recording.image_encodings import RARE_ENCODINGS, ImageFormatError, to_rgb
from deal_core.structures import UInt8Array


class RareConverter(Protocol):
    """What converts some of `RARE_ENCODINGS`."""

    encodings: Collection[str]

    def to_rgb(self, pixels: npt.NDArray[Any], encoding: str) -> UInt8Array:
        """Return (H, W, 3) uint8 RGB of contiguous pixels as `decode_image` returns them.

        Raises:
            ImageFormatError: this image of the encoding cannot be converted.
        """


class RosbagsConverter:
    """Converts them all, by `rosbags-image`."""

    encodings: Collection[str] = RARE_ENCODINGS

    def to_rgb(self, pixels: npt.NDArray[Any], encoding: str) -> UInt8Array:
        """Return (H, W, 3) uint8 RGB.

        Raises:
            ImageFormatError: the library refuses the image.
        """
        from rosbags.image import ImageError
        from rosbags.image.image import convert_color

        try:
            return np.asarray(convert_color(pixels, encoding, "rgb8"), np.uint8)
        except (cv2.error, ImageError) as error:
            raise inconvertible(pixels, encoding, error) from error


def any_to_rgb(
    pixels: npt.NDArray[Any], encoding: str, converters: Sequence[RareConverter] = (RosbagsConverter(),)
) -> UInt8Array:
    """Return (H, W, 3) uint8 RGB of the pixels of any colour encoding; the same memory for `rgb8`.

    Args:
        pixels: as `decode_image` returns them.
        encoding: a key of `COLOR_ENCODINGS` or `RARE_ENCODINGS`.
        converters: for the rare ones; the first that has the encoding is taken.

    Raises:
        ImageFormatError: the encoding is not a colour, or the library refuses the image.
    """
    converter = next((c for c in converters if encoding in c.encodings), None)
    if converter is None:
        return to_rgb(pixels, encoding)
    return converter.to_rgb(np.ascontiguousarray(pixels), encoding)


def inconvertible(pixels: npt.NDArray[Any], encoding: str, error: Exception) -> ImageFormatError:
    """Return the error for an image that its library refuses."""
    return ImageFormatError(
        "inconvertible", f"expected an image of encoding '{encoding}', found {pixels.shape} that is none ({error})"
    )
