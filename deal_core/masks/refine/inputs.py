"""What every refinement is given: an image, and scores of its size."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from deal_core.structures import UInt8Array


def check_inputs(image: UInt8Array, scores: Tensor) -> None:
    """Refuse an image that is not uint8 (H, W, 3), and scores that are not (C, H, W).

    Raises:
        ValueError: shapes or types that do not fit.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected an image as uint8 (H, W, 3), got {image.dtype} {image.shape}")
    if scores.ndim != 3 or tuple(scores.shape[1:]) != image.shape[:2]:
        raise ValueError(f"expected scores (C, {image.shape[0]}, {image.shape[1]}), got {tuple(scores.shape)}")
