"""Sampling of images at a constant step, which keeps ids, depth and rays of a pixel together.

Example:
    >>> sample_indices(8, 2).tolist(), sample_indices(8, 2.5).tolist()
    ([0, 2, 4, 6], [0, 3, 5])
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from deal_core.structures import Int64Array

_ROUNDING = 1e-9  # of a step such as 1 / 0.7; without it, the last sample might be left out

Pixels = TypeVar("Pixels", bound=npt.NDArray[Any])


def sample_count(length: int, step: float) -> int:
    """Return the number of samples of a row or column of `length` pixels; at least 1."""
    return math.floor((length - 1) / step + _ROUNDING) + 1


def sample_indices(length: int, step: float) -> Int64Array:
    """Return the indices of every `step`-th pixel, each rounded to the nearest pixel.

    Sample i lies at the coordinate `i * step`, so the samples are an image whose camera has the focal lengths and the
    principal point of the original, divided by `step`: exactly for a whole step, within half a pixel for others.

    Args:
        length: Number of pixels of the row or column.
        step: Distance of the samples in pixels, at least 1.
    """
    return np.floor(np.arange(sample_count(length, step)) * step + 0.5).astype(np.int64)


def sampled(image: Pixels, step: float) -> Pixels:
    """Return every `step`-th pixel of every `step`-th row of (H, W, ...); a view of the image if the step is whole.

    The nearest pixel is taken and nothing is interpolated, so ids stay ids.
    """
    if step == int(step):
        return image[:: int(step), :: int(step)]  # type: ignore[return-value]
    rows, columns = (sample_indices(length, step) for length in image.shape[:2])
    return image[rows][:, columns]  # type: ignore[return-value]
